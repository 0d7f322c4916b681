// The sample's conversation, with the demo.
package dev.hotset.sample

import dev.hotset.GenerateOptions
import dev.hotset.Hotset
import dev.hotset.HotsetOptions
import dev.hotset.MIB
import dev.hotset.Message
import dev.hotset.Role
import dev.hotset.Statistics
import dev.hotset.inTemporaryFolder
import dev.hotset.openDemo
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class ChatTest {
    @Test
    fun `an answer can be stopped, and survives the process with the rest`() = inTemporaryFolder { folder ->
        val said = chat(folder).use { chat ->
            val asking = launch { chat.ask("Once upon a time", GenerateOptions(maxTokens = 2000, seed = 1)) }
            chat.state.first { it.messages.size == 2 && it.messages[1].text.length > 20 }
            assertTrue(chat.state.value.answering)
            asking.cancelAndJoin()
            assertFalse(chat.state.value.answering)
            assertEquals(null, chat.state.value.error)
            chat.state.value.messages
        }
        assertEquals(Message(Role.USER, "Once upon a time"), said[0])
        chat(folder).use { chat ->
            assertEquals(said, chat.state.value.messages)
            chat.startAnew()
            assertEquals(emptyList<Message>(), chat.state.value.messages)
        }
        chat(folder).use { assertEquals(emptyList<Message>(), it.state.value.messages) }
    }

    @Test
    fun `what was saved and is damaged gives way to a new conversation`() = inTemporaryFolder { folder ->
        val engine = openDemo()
        folder.resolve(engine.info.fingerprint).writeText("damaged")
        chat(folder, engine).use { assertEquals(emptyList<Message>(), it.state.value.messages) }
    }

    @Test
    fun `a failure is shown and the chat goes on`() = inTemporaryFolder { folder ->
        chat(folder).use { chat ->
            chat.ask("Tell me a story. ".repeat(3000))
            assertTrue("${chat.state.value.error}", chat.state.value.error!!.contains("context"))
            assertEquals(emptyList<Message>(), chat.state.value.messages)
            assertFalse(chat.state.value.answering)
        }
    }

    @Test
    fun `what is learned about experts is kept`() = inTemporaryFolder { folder ->
        chat(folder, openDemo(HotsetOptions("cpu", budget = 64 * MIB))).use { chat ->
            chat.ask("Hello", GenerateOptions(maxTokens = 5, seed = 1))
            assertEquals(null, chat.state.value.error)
            assertTrue(folder.resolve("heat").length() > 0)
        }
    }

    @Test
    fun `the status says what there is to say`() {
        assertEquals("", status(Statistics(), null))
        assertEquals("12.3 tokens/s", status(Statistics(tokensPerSecond = 12.34), null))
    }

    private suspend fun chat(folder: File, engine: Hotset? = null) = Chat.with(engine ?: openDemo(), folder, folder.resolve("heat"))
}

// One conversation with one model: what the screen shows, and what its buttons do. Nothing here is of Android.
package dev.hotset.sample

import dev.hotset.GenerateOptions
import dev.hotset.Hotset
import dev.hotset.HotsetException
import dev.hotset.HotsetSession
import dev.hotset.MemoryReport
import dev.hotset.Message
import dev.hotset.Role
import dev.hotset.Statistics
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.withContext
import java.io.File

/** What the screen shows. */
data class ChatState(
    val model: String,
    val messages: List<Message> = emptyList(),
    val answering: Boolean = false,
    val statistics: Statistics = Statistics(),
    val memory: MemoryReport? = null,
    val error: String? = null,
)

/** Talks to [engine]; the conversation is kept in [saved] between answers, and so survives the process, as what was learned about experts does in [heat]. */
class Chat private constructor(
    private val engine: Hotset,
    private val session: HotsetSession,
    private val saved: File,
    private val heat: File,
) : AutoCloseable {
    private val mutable = MutableStateFlow(ChatState(engine.info.name, session.messages))
    val state: StateFlow<ChatState> = mutable.asStateFlow()

    /** Says [text] and shows the answer as it comes. Cancelling is how to stop it: what is there stays. */
    suspend fun ask(text: String, options: GenerateOptions = GenerateOptions()) {
        val before = state.value.messages + Message(Role.USER, text)
        val answer = StringBuilder()
        mutable.update { it.copy(messages = before, answering = true, error = null) }
        try {
            session.send(text, options).collect { token ->
                answer.append(token.text)
                show(before + Message(Role.ASSISTANT, answer.toString()))
            }
        } catch (e: HotsetException) {
            mutable.update { it.copy(error = e.message) }
        } finally {
            withContext(NonCancellable) { settle() }
        }
    }

    /** Forgets the conversation. */
    fun startAnew() {
        try {
            session.reset()
            saved.delete()
            mutable.update { it.copy(messages = session.messages, statistics = Statistics(), error = null) }
        } catch (e: HotsetException) {
            mutable.update { it.copy(error = e.message) }
        }
    }

    override fun close() {
        session.close()
        engine.close()
    }

    private fun show(messages: List<Message>) {
        mutable.update { it.copy(messages = messages, statistics = session.statistics.value, memory = engine.memoryReport()) }
    }

    /** After an answer the session knows best what was said: a message without an answer was taken back. */
    private suspend fun settle() {
        try {
            show(session.messages)
            session.save(saved)
            engine.saveHeat(heat)
        } catch (e: HotsetException) {
            // The conversation goes on, it just would not survive.
            mutable.update { it.copy(error = it.error ?: e.message) }
        } finally {
            mutable.update { it.copy(answering = false) }
        }
    }

    companion object {
        /** The conversation that was saved for this model in [folder], or a new one. */
        suspend fun with(engine: Hotset, folder: File, heat: File): Chat {
            folder.mkdirs()
            val saved = File(folder, engine.info.fingerprint)
            return Chat(engine, restore(engine, saved) ?: engine.session(), saved, heat)
        }

        private suspend fun restore(engine: Hotset, saved: File): HotsetSession? =
            try {
                if (saved.exists()) engine.restore(saved) else null
            } catch (_: HotsetException.Broken) {
                // Of an older version of the app or cut short: better a new conversation than none.
                saved.delete()
                null
            }
    }
}

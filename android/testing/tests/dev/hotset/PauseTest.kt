// Pausing and saving: a conversation goes on as if nothing had happened.
package dev.hotset

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.time.Duration.Companion.milliseconds

private const val PROMPT = "Once upon a time"
private val OPTIONS = GenerateOptions(maxTokens = 80, seed = 5)
private val MORE = GenerateOptions(maxTokens = 40, seed = 6)

class PauseTest {
    @Test
    fun `an answer waits while the engine is paused and is the same in the end`() = test {
        for (options in listOf(HotsetOptions("cpu"), HotsetOptions("cpu", budget = 64 * MIB))) {
            withDemo(options) { engine ->
                val expected = engine.session().use { it.complete(PROMPT, OPTIONS).text() }
                engine.session().use { session ->
                    val tenth = CompletableDeferred<Unit>()
                    val text = StringBuilder()
                    val answer = async(Dispatchers.Default) {
                        var tokens = 0
                        session.complete(PROMPT, OPTIONS).collect {
                            text.append(it.text)
                            if (++tokens == 10) tenth.complete(Unit)
                            delay(1.milliseconds)
                        }
                    }
                    tenth.await()
                    engine.pause()
                    val report = engine.memoryReport()
                    assertTrue("$report", report.paused && report.used == 0L)
                    failsWith<HotsetException.Paused> { engine.session() }
                    delay(200.milliseconds)
                    assertFalse("it went on", answer.isCompleted)
                    engine.resume()
                    answer.await()
                    assertFalse(engine.memoryReport().paused)
                    assertEquals(expected, text.toString())
                }
            }
        }
    }

    @Test
    fun `an answer that waits can be cancelled`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                val begun = CompletableDeferred<Unit>()
                val answer = launch(Dispatchers.Default) { session.complete(PROMPT, GenerateOptions(maxTokens = 2000)).collect { begun.complete(Unit) } }
                begun.await()
                engine.pause()
                answer.cancelAndJoin()
                assertEquals(StopReason.CANCELLED, session.statistics.value.stop)
                engine.resume()
                session.complete(PROMPT, MORE).collect()
            }
        }
    }

    @Test
    fun `a saved conversation goes on as the original does`() = inTemporaryFolder { folder ->
        val file = folder.resolve("conversation")
        val expected = openDemo().use { engine ->
            engine.session().use { session ->
                session.send("Hello", OPTIONS).collect()
                session.save(file)
                session.messages to session.send("And then?", MORE).text()
            }
        }
        // In another engine, as after another start of the app.
        withDemo { engine ->
            engine.restore(file).use { session ->
                assertEquals(expected.first, session.messages)
                assertEquals(expected.second, session.send("And then?", MORE).text())
            }
        }
    }

    @Test
    fun `what is no conversation is an error, and a failed save leaves the old file`() = inTemporaryFolder { folder ->
        val file = folder.resolve("conversation")
        withDemo { engine ->
            engine.session().use { session ->
                session.send("Hello", OPTIONS).collect()
                session.save(file)
                val bytes = file.readBytes()
                failsWith<HotsetException.File> { session.save(folder.resolve("no/such/folder")) }
                failsWith<HotsetException.File> { engine.restore(folder.resolve("missing")) }
                for (length in listOf(0, 10, bytes.size - 1)) {
                    val damaged = folder.resolve("damaged").apply { writeBytes(bytes.copyOf(length)) }
                    failsWith<HotsetException.Broken> { engine.restore(damaged) }
                }
                failsWith<HotsetException.Broken> { engine.restore(demo) }
                assertArrayEquals(bytes, file.readBytes())
            }
        }
    }
}

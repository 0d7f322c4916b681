// Cancelling: whatever ends the collecting ends the native work, soon and without a trace.
package dev.hotset

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.measureTime

private const val PROMPT = "Once upon a time"

/** How many tokens the model may be ahead of its collector: those in the stream, and the one that waits for room. */
private const val LEAD = 5

class CancelTest {
    @Test
    fun `a cancelled collector stops the model within its lead`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                val tenth = CompletableDeferred<Unit>()
                val collecting = launch {
                    var taken = 0
                    session.complete(PROMPT, GenerateOptions(maxTokens = 2000, seed = 1)).collect {
                        if (++taken == 10) {
                            tenth.complete(Unit)
                            awaitCancellation()
                        }
                    }
                }
                tenth.await()
                // Long enough for hundreds of tokens, if nothing held the model back.
                delay(300.milliseconds)
                collecting.cancelAndJoin()
                val stopped = session.statistics.value
                assertEquals(StopReason.CANCELLED, stopped.stop)
                assertTrue("$stopped", stopped.generatedTokens in 10L..10L + LEAD)
                val tokens = session.tokenCount
                delay(100.milliseconds)
                assertEquals("it went on", tokens, session.tokenCount)
            }
        }
    }

    @Test
    fun `a prompt that is being read is left at once`() = test {
        withDemo { engine ->
            val long = "Once upon a time there was a little girl who lived near a forest. ".repeat(220)
            val options = GenerateOptions(maxTokens = 1, seed = 1)
            val whole = measureTime { engine.session().use { it.complete(long, options).collect() } }
            engine.session().use { session ->
                val collecting = launch { session.complete(long, options).collect { error("it has been read whole") } }
                delay(whole / 20)
                failsWith<HotsetException.Busy> { session.tokenCount }
                val ending = measureTime { collecting.cancelAndJoin() }
                assertTrue("$ending of $whole", ending < whole / 2)
                assertEquals(0L, session.statistics.value.generatedTokens)
                assertEquals(StopReason.CANCELLED, session.statistics.value.stop)
            }
        }
    }

    @Test
    fun `the session answers again as soon as collecting has ended`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                repeat(20) { round ->
                    val collecting = launch { session.complete(PROMPT, GenerateOptions(maxTokens = 500, seed = 1)).collect() }
                    delay(round.milliseconds)
                    collecting.cancelAndJoin()
                    session.reset()
                }
            }
        }
    }

    @Test
    fun `a message that got no answer is taken back`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                val long = "Tell me a story about a dog. ".repeat(300)
                val collecting = launch { session.send(long).collect { error("too late") } }
                delay(10.milliseconds)
                collecting.cancelAndJoin()
                assertEquals(emptyList<Message>(), session.messages)
            }
        }
    }

    @Test
    fun `a collector that throws stops the model and keeps its exception`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                val mine = IllegalStateException("mine")
                val thrown = failsWith<IllegalStateException> {
                    session.complete(PROMPT, GenerateOptions(maxTokens = 500, seed = 1)).collect { throw mine }
                }
                assertSame(mine, thrown)
                val stopped = session.statistics.value
                assertEquals(StopReason.CANCELLED, stopped.stop)
                assertTrue("$stopped", stopped.generatedTokens <= 1L + LEAD)
            }
        }
    }

    @Test
    fun `a session that answers is busy`() = test {
        withDemo { engine ->
            engine.session().use { session ->
                val first = CompletableDeferred<Unit>()
                val collecting = launch {
                    session.complete(PROMPT, GenerateOptions(maxTokens = 500, seed = 1)).collect {
                        first.complete(Unit)
                        awaitCancellation()
                    }
                }
                first.await()
                failsWith<HotsetException.Busy> { session.send("And now?").collect() }
                failsWith<HotsetException.Busy> { session.messages }
                assertTrue("the refused message left the answer alone", collecting.isActive)
                collecting.cancelAndJoin()
                assertFalse(session.tokenCount == 0L)
            }
        }
    }
}

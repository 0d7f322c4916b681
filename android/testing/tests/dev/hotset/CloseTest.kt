// Closing: deterministic, in any order, at any moment; afterwards there are errors and no crashes.
package dev.hotset

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import kotlin.time.Duration.Companion.milliseconds

private val LONG = GenerateOptions(maxTokens = 2000, seed = 1)

class CloseTest {
    @Test
    fun `an engine that was closed says so to every call`() = test {
        val engine = openDemo()
        engine.close()
        engine.close()
        failsWith<HotsetException.Closed> { engine.info }
        failsWith<HotsetException.Closed> { engine.session() }
        failsWith<HotsetException.Closed> { engine.restore(File("nowhere")) }
        failsWith<HotsetException.Closed> { engine.setBudget(MIB) }
        failsWith<HotsetException.Closed> { engine.pause() }
        failsWith<HotsetException.Closed> { engine.resume() }
        failsWith<HotsetException.Closed> { engine.memoryReport() }
        failsWith<HotsetException.Closed> { engine.useProfile("{}", ProfileOptions(0.5)) }
        failsWith<HotsetException.Closed> { engine.clearProfile() }
        failsWith<HotsetException.Closed> { engine.saveHeat(File("nowhere")) }
    }

    @Test
    fun `a session that was closed says so to every call`() = test {
        withDemo { engine ->
            val session = engine.session()
            session.close()
            session.close()
            sessionIsClosed(session)
        }
    }

    @Test
    fun `closing the engine closes its sessions`() = test {
        val engine = openDemo()
        val session = engine.session()
        engine.close()
        sessionIsClosed(session)
        session.close()
    }

    @Test
    fun `an answer ends with an error when its session is closed`() = endsWhile { _, session -> session.close() }

    @Test
    fun `an answer ends with an error when its engine is closed`() = endsWhile { engine, _ -> engine.close() }

    @Test
    fun `closing from several threads at once is closing once`() = test {
        repeat(20) {
            val engine = openDemo()
            val session = engine.session()
            val answering = launch(Dispatchers.Default) { runCatching { session.complete("Once", LONG).collect() } }
            delay(2.milliseconds)
            repeat(4) { n -> launch(Dispatchers.Default) { if (n % 2 == 0) engine.close() else session.close() } }
            answering.join()
        }
    }

    /** Closes in the middle of an answer whose collector takes its time, and of one that waits for a token. */
    private fun endsWhile(close: (Hotset, HotsetSession) -> Unit) = test {
        for (pause in listOf(0, 20)) {
            openDemo().use { engine ->
                val session = engine.session()
                val begun = CompletableDeferred<Unit>()
                val answer = async(Dispatchers.Default) {
                    failsWith<HotsetException.Closed> {
                        session.complete("Once upon a time", LONG).collect {
                            begun.complete(Unit)
                            delay(pause.milliseconds)
                        }
                    }
                }
                begun.await()
                close(engine, session)
                assertTrue(answer.await().message!!.contains("closed"))
                sessionIsClosed(session)
            }
        }
    }

    private suspend fun sessionIsClosed(session: HotsetSession) {
        failsWith<HotsetException.Closed> { session.send("Hello").collect() }
        failsWith<HotsetException.Closed> { session.complete("Hello").collect() }
        failsWith<HotsetException.Closed> { session.messages }
        failsWith<HotsetException.Closed> { session.tokenCount }
        failsWith<HotsetException.Closed> { session.reset() }
        failsWith<HotsetException.Closed> { session.setSystem("") }
        failsWith<HotsetException.Closed> { session.save(File("nowhere")) }
    }
}

// Budgets: the same answer under each, moved at any moment; and nothing that grows.
package dev.hotset

import kotlinx.coroutines.flow.collect
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

private const val PLENTY = 64 * MIB
private val OPTIONS = GenerateOptions(maxTokens = 60, seed = 5)

class BudgetTest {
    @Test
    fun `an answer stays the same when the budget moves in the middle of it`() = test {
        val expected = withPlenty { engine -> engine.session().use { it.complete("Once upon a time", OPTIONS).text() } }
        withPlenty { engine ->
            engine.session().use { session ->
                // The conversation grows, so the least is too little by the next token.
                val little = engine.memoryReport().least!! + MIB
                val text = StringBuilder()
                var tokens = 0
                session.complete("Once upon a time", OPTIONS).collect {
                    text.append(it.text)
                    when (++tokens) {
                        10 -> engine.setBudget(little)
                        30 -> engine.setBudget(little + MIB)
                    }
                    if (tokens == 11) assertEquals(little, engine.memoryReport().budget)
                }
                assertEquals(expected, text.toString())
                val report = engine.memoryReport()
                assertEquals(little + MIB, report.budget)
                assertTrue("$report", report.used <= little + MIB && report.misses > 0 && report.hitRate!! < 1)
            }
        }
    }

    @Test
    fun `a budget that is too small is an error that names the least`() = test {
        withPlenty { engine ->
            val error = failsWith<HotsetException.Invalid> { engine.setBudget(1) }
            assertEquals("the old one stays in force", PLENTY, engine.memoryReport().budget)
            val least = Regex("""smallest that works is (\d+) bytes""").find(error.message!!)!!.groupValues[1].toLong()
            failsWith<HotsetException.Invalid> { engine.setBudget(least - 1) }
            engine.setBudget(least)
            assertEquals(least, engine.memoryReport().budget)
        }
        failsWith<HotsetException.Invalid> { openDemo(HotsetOptions("cpu", budget = 1)) }
    }

    @Test
    fun `without a budget there is none to move`() = test {
        withDemo {
            assertEquals(null, it.memoryReport().budget)
            failsWith<HotsetException.Invalid> { it.setBudget(PLENTY) }
        }
    }

    @Test
    fun `what was learned is kept for the next start`() = inTemporaryFolder { folder ->
        val heat = folder.resolve("heat.json")
        withPlenty { engine ->
            engine.session().use { it.complete("Once upon a time", OPTIONS).collect() }
            engine.saveHeat(heat)
        }
        assertTrue(heat.length() > 0)
        withDemo(HotsetOptions("cpu", budget = PLENTY, heat = heat)) { assertEquals(PLENTY, it.memoryReport().budget) }
        heat.writeText("no heat")
        failsWith<HotsetException> { openDemo(HotsetOptions("cpu", budget = PLENTY, heat = heat)) }
    }

    @Test
    fun `a thousand sessions leave nothing behind`() = test {
        withPlenty { engine ->
            suspend fun sessions(count: Int) = repeat(count) {
                engine.session().use { it.complete("Once upon a time", GenerateOptions(maxTokens = 3, seed = 1)).collect() }
            }
            sessions(150)
            val before = residentBytes()
            sessions(850)
            val grown = residentBytes() - before
            assertTrue("grown by ${grown / 1024} KiB", grown < 24 * MIB)
        }
    }

    private suspend fun <T> withPlenty(body: suspend (Hotset) -> T): T = openDemo(HotsetOptions("cpu", budget = PLENTY)).use { body(it) }

    /** The Java heap has one size from the start to the end (see .ci/kotlin), so that growth is native. */
    private fun residentBytes(): Long {
        System.gc()
        return File("/proc/self/statm").readText().split(' ')[1].toLong() * 4096
    }
}

// Runs all tests and counts them: `N passed, N failed` is the last line, and the exit code tells, too.
package dev.hotset

import dev.hotset.sample.ChatTest
import dev.hotset.sample.DownloadTest
import org.junit.internal.TextListener
import org.junit.runner.JUnitCore
import kotlin.system.exitProcess

private val all = arrayOf(
    OpenTest::class.java,
    AnswerTest::class.java,
    CancelTest::class.java,
    CloseTest::class.java,
    BudgetTest::class.java,
    PauseTest::class.java,
    MemoryPolicyTest::class.java,
    HotsetMemoryTest::class.java,
    DownloadTest::class.java,
    ChatTest::class.java,
)

fun main(names: Array<String>) {
    val chosen = if (names.isEmpty()) all else all.filter { it.simpleName in names }.toTypedArray()
    val core = JUnitCore().apply { addListener(TextListener(System.out)) }
    val result = core.run(*chosen)
    // A test that was left out has not passed.
    val failed = result.failureCount + result.ignoreCount + result.assumptionFailureCount
    println("${result.runCount - result.failureCount - result.assumptionFailureCount} passed, $failed failed")
    exitProcess(if (failed == 0 && result.runCount > 0) 0 else 1)
}

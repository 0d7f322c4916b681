// What tests share: the demo bundle, ways to run an answer, and a limit to how long anything may take.
package dev.hotset

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.fold
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import java.io.File
import java.nio.file.Files
import kotlin.time.Duration.Companion.minutes

/** The repository's root. */
val root = File(System.getProperty("hotset.root") ?: error("run this by .ci/kotlin"))

val demo = root.resolve("tools/demo/molm-demo.hotset")

/** Enough for everything but the experts, and some of those. */
const val MIB = 1L shl 20

/** A test that waits for ever fails instead. */
fun test(body: suspend CoroutineScope.() -> Unit) = runBlocking { withTimeout(2.minutes) { body() } }

suspend fun openDemo(options: HotsetOptions = HotsetOptions(device = "cpu")): Hotset = Hotset.open(demo, options)

suspend fun withDemo(options: HotsetOptions = HotsetOptions(device = "cpu"), body: suspend (Hotset) -> Unit) =
    openDemo(options).use { body(it) }

suspend fun Flow<Token>.text(): String = fold(StringBuilder()) { text, token -> text.append(token.text) }.toString()

fun inTemporaryFolder(body: suspend CoroutineScope.(File) -> Unit) {
    val folder = Files.createTempDirectory("hotset").toFile()
    try {
        test { body(folder) }
    } finally {
        folder.deleteRecursively()
    }
}

/** The failure that [call] must end with. */
inline fun <reified E : Throwable> failsWith(call: () -> Unit): E {
    try {
        call()
    } catch (e: Throwable) {
        if (e is E) return e
        throw AssertionError("expected ${E::class.simpleName}, got $e", e)
    }
    throw AssertionError("expected ${E::class.simpleName}, and nothing failed")
}

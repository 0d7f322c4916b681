// Glue between Android's memory signals and an engine: what makes an app with a large model a good citizen.
package dev.hotset

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import android.util.Log
import androidx.lifecycle.DefaultLifecycleObserver
import androidx.lifecycle.Lifecycle
import androidx.lifecycle.LifecycleOwner
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds

/** What a model does while its app is not on the screen. */
public enum class Background {
    /** It is [paused][Hotset.pause], and answers wait: the least memory, and the process lives longest. */
    PAUSE,

    /** Answers go on, until the system asks for memory: the budget becomes the least then. For apps with a foreground service. */
    CONTINUE,
}

/**
 * Keeps an engine in step with the device: its budget follows the memory that is free while the app is on the screen, and it is paused (or
 * shrunk, see [Background]) when it is not.
 *
 * ```kotlin
 * val memory = HotsetMemory(context, engine, ProcessLifecycleOwner.get().lifecycle)
 * …
 * memory.close()   // before the engine
 * ```
 *
 * Create and close it on the main thread, as lifecycles demand, and give it the lifecycle of the *process*: that of an activity stops and starts
 * whenever the screen is turned.
 *
 * Why it watches by itself: since Android 14 (API 34) apps are told `TRIM_MEMORY_UI_HIDDEN` and `TRIM_MEMORY_BACKGROUND` only, and nothing at all
 * while they are on the screen. So in the foreground the system's figures are read [every] so often, and the policy decides.
 *
 * The engine must have been opened with a budget; it is the most that the model will ever be given.
 */
public class HotsetMemory(
    context: Context,
    private val engine: Hotset,
    private val lifecycle: Lifecycle,
    policy: MemoryPolicy = MemoryPolicy(totalMemory(context)),
    private val background: Background = Background.PAUSE,
    private val every: Duration = 5.seconds,
) : AutoCloseable {
    private val app = context.applicationContext
    private val watch = MemoryWatch(engine, policy) { readMemory(app) }

    // The app may have left the screen while the bundle was being opened.
    private val visible = MutableStateFlow(lifecycle.currentState.isAtLeast(Lifecycle.State.STARTED))
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)

    private val signals = object : DefaultLifecycleObserver, ComponentCallbacks2 {
        override fun onStart(owner: LifecycleOwner) {
            visible.value = true
        }

        override fun onStop(owner: LifecycleOwner) {
            visible.value = false
        }

        override fun onTrimMemory(level: Int) {
            // Before API 34 there are levels for the foreground, too; they come late, and the watch has seen the same figures.
            if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) shrink()
        }

        @Deprecated("Required by the interface; onTrimMemory says the same")
        override fun onLowMemory() = Unit

        override fun onConfigurationChanged(newConfig: Configuration) = Unit
    }

    init {
        lifecycle.addObserver(signals)
        app.registerComponentCallbacks(signals)
        scope.launch { visible.collectLatest { if (it) foreground() else background() } }
    }

    /** Lets the engine be as it is from now on. */
    override fun close() {
        lifecycle.removeObserver(signals)
        app.unregisterComponentCallbacks(signals)
        scope.cancel()
    }

    private suspend fun foreground() {
        while (true) {
            quietly("steering memory") {
                // What fails while memory is short is tried again.
                if (engine.memoryReport().paused) whole { engine.resume() }
                watch.look()
            }
            delay(every)
        }
    }

    private suspend fun background() {
        when (background) {
            Background.PAUSE -> quietly("pausing") { whole { engine.pause() } }
            Background.CONTINUE -> while (true) {
                quietly("steering memory") { watch.hold() }
                delay(every)
            }
        }
    }

    /** Not in the callback: that is on the main thread. */
    private fun shrink() {
        scope.launch { quietly("shrinking") { watch.shrink() } }
    }

    /** Pausing and resuming are not left half-done when the app comes and goes: the next begins when this has ended. */
    private suspend fun whole(change: suspend () -> Unit) = withContext(NonCancellable) { change() }

    /** Nobody waits for what happens here, so a failure can only be noted; whoever uses the engine meets its cause. */
    private inline fun quietly(doing: String, act: () -> Unit) {
        try {
            act()
        } catch (_: HotsetException.Closed) {
            scope.cancel()
        } catch (e: HotsetException) {
            Log.w("Hotset", "$doing: ${e.message}")
        }
    }
}

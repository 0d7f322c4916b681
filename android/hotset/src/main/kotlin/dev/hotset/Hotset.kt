// The engine: a bundle made ready on a device.
package dev.hotset

import dev.hotset.ffi.Engine
import dev.hotset.ffi.ListenerException
import dev.hotset.ffi.LoadListener
import dev.hotset.ffi.uniffiEnsureInitialized
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean

/**
 * A bundle made ready on a device: open it once, start any number of sessions, close it.
 *
 * ```kotlin
 * Hotset.open(File(filesDir, "model.hotset"), HotsetOptions(budget = 1L shl 30)).use { engine ->
 *     engine.session().use { session -> session.send("Hello").collect { print(it.text) } }
 * }
 * ```
 *
 * Everything can be called from any thread, the main thread included: what takes longer than a frame suspends and runs on native threads. Every
 * failure is a [HotsetException]; arguments that no device could take are an [IllegalArgumentException].
 */
public class Hotset private constructor(private val engine: Engine) : AutoCloseable {
    private val closed = AtomicBoolean()

    /** What the engine is made of. */
    public val info: ModelInfo
        get() = native { engine.info() }.toHotset()

    /** Starts a conversation. Fails with [HotsetException.Paused] while the engine is paused. */
    public fun session(options: SessionOptions = SessionOptions()): HotsetSession =
        HotsetSession(native { engine.session(options.toNative()) })

    /**
     * Goes on with a conversation that [HotsetSession.save] wrote, with the options it had. Fails with [HotsetException.Broken] when the file is
     * damaged or of another bundle.
     */
    public suspend fun restore(file: File): HotsetSession = HotsetSession(native { engine.restore(file.path) })

    /**
     * Changes the bytes that the model may take, also in the middle of an answer: what no longer fits is given back before the next step. Answers
     * do not change. Fails with [HotsetException.Invalid], naming the smallest budget, when this one is too small, and when the engine was opened
     * without one.
     */
    public fun setBudget(bytes: Long): Unit = native { engine.setBudget(bytes.toNative("the budget")) }

    /**
     * Gives back everything the engine holds on the device, conversations included, and lets answers wait: [resume] goes on with them as if nothing
     * had happened. What the conversations hold is kept in the system's memory. For when the app leaves the screen.
     */
    public suspend fun pause(): Unit = native { engine.suspend() }

    /** Makes a paused engine ready again. When that fails it stays paused, to be resumed later. */
    public suspend fun resume(): Unit = native { engine.resume() }

    /** What the model takes of the device's memory. */
    public fun memoryReport(): MemoryReport = native { engine.memoryReport() }.toHotset()

    /**
     * Lets sessions that start from now on do with the experts that a profile (the text of the file that `hotset profile` writes) names for a kind
     * of text: faster and smaller, worse at everything else.
     */
    public fun useProfile(json: String, options: ProfileOptions): Unit = native { engine.useProfile(json, options.toNative()) }

    /** Lets sessions that start from now on use all experts again. */
    public fun clearProfile(): Unit = native { engine.clearProfile() }

    /** Writes what was learned about which experts are used, for [HotsetOptions.heat] of the next start. Without a budget nothing is written. */
    public suspend fun saveHeat(file: File): Unit = withContext(Dispatchers.IO) { native { engine.saveHeat(file.path) } }

    /**
     * Ends everything now: answers under way end with [HotsetException.Closed], all sessions are closed and all memory is given back within a
     * token's time. A second call does nothing; every other call fails with [HotsetException.Closed] from then on.
     */
    override fun close() {
        if (!closed.compareAndSet(false, true)) return
        // Destroying the handle alone would let sessions, which hold on to the engine, live on.
        native { engine.shutdown() }
        engine.close()
    }

    public companion object {
        /**
         * Opens the bundle in [file].
         *
         * @param onProgress is told which share of the work is done, 0 to 1, on a thread of Hotset's: put it into a
         *   [kotlinx.coroutines.flow.MutableStateFlow] for a progress bar. What it throws stops the opening, which fails with
         *   [HotsetException.Stopped]. So does, without the exception, cancelling the coroutine.
         */
        public suspend fun open(
            file: File,
            options: HotsetOptions = HotsetOptions(),
            onProgress: (Double) -> Unit = {},
        ): Hotset = load(onProgress) { Engine.open(file.path, options.toNative(), it) }

        /**
         * Opens the bundle behind a file [descriptor]. It stays the caller's, who may close it after this. It must be of a real file: pipes and
         * sockets have no place to read experts from.
         */
        public suspend fun open(
            descriptor: Int,
            options: HotsetOptions = HotsetOptions(),
            onProgress: (Double) -> Unit = {},
        ): Hotset = load(onProgress) { Engine.openDescriptor(descriptor, options.toNative(), it) }

        private suspend fun load(onProgress: (Double) -> Unit, open: suspend (LoadListener) -> Engine): Hotset {
            // The first use of the library reads it from storage.
            withContext(Dispatchers.IO) { loadLibrary() }
            val caller = currentCoroutineContext()
            val listener = Listener { fraction ->
                if (!caller.isActive) throw ListenerException.Stopped()
                onProgress(fraction)
            }
            try {
                return Hotset(native { open(listener) })
            } catch (e: HotsetException.Stopped) {
                throw HotsetException.Stopped(e.message.orEmpty(), listener.failure ?: e)
            }
        }

        private fun loadLibrary() {
            try {
                uniffiEnsureInitialized()
            } catch (e: LinkageError) {
                throw HotsetException.Device("there is no usable hotset library for this processor; see the ABIs that the app was built for", e)
            }
        }
    }
}

/** Tells [onProgress] and keeps what it throws, which does not get across the border. */
private class Listener(private val onProgress: (Double) -> Unit) : LoadListener {
    @Volatile
    var failure: Throwable? = null
        private set

    // Errors, too: the bindings hand on exceptions only, and one that escapes here would go unnoticed.
    @Suppress("TooGenericExceptionCaught")
    override fun onProgress(fraction: Double) {
        try {
            onProgress.invoke(fraction)
        } catch (e: Throwable) {
            failure = e
            throw ListenerException.Stopped()
        }
    }
}

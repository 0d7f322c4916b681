// The glue to Android's signals, with a real engine on a device that is made up.
package dev.hotset

import android.app.ActivityManager
import android.content.ComponentCallbacks
import android.content.ComponentCallbacks2
import android.content.ContentResolver
import android.content.Context
import androidx.lifecycle.DefaultLifecycleObserver
import androidx.lifecycle.Lifecycle
import androidx.lifecycle.LifecycleObserver
import androidx.lifecycle.LifecycleOwner
import kotlinx.coroutines.TimeoutCancellationException
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

private const val TOTAL = 4096 * MIB
private const val BUDGET = 64 * MIB

/** Between the least that the demo works in and what it takes with all of its experts. */
private const val SMALL = 8 * MIB

class HotsetMemoryTest {
    @Test
    fun `an app that leaves the screen is paused until it is back`() = steered { engine, phone, _ ->
        phone.stop()
        eventually("paused") { engine.memoryReport().paused }
        phone.start()
        eventually("resumed") { !engine.memoryReport().paused }
        assertEquals(BUDGET, engine.memoryReport().budget)
    }

    @Test
    fun `an app that left the screen while its bundle was opened is paused`() = steered(visible = false) { engine, _, _ ->
        eventually("paused") { engine.memoryReport().paused }
    }

    @Test
    fun `work in the background goes on and shrinks when the system asks`() = steered(Background.CONTINUE) { engine, phone, _ ->
        phone.stop()
        phone.trim(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
        delay(50.milliseconds)
        assertEquals("not asked yet", BUDGET, engine.memoryReport().budget)
        phone.trim(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        eventually("shrunk") { engine.memoryReport().run { budget!! < SMALL && !paused } }
        engine.session().use { it.complete("Once upon a time", GenerateOptions(maxTokens = 600, seed = 1)).collect() }
    }

    @Test
    fun `the budget follows memory down at once and up with patience, to where it was`() = steered { engine, phone, _ ->
        phone.available = phone.threshold - 1
        phone.low = true
        eventually("shrunk") { engine.memoryReport().run { budget!! < SMALL && used < SMALL } }
        phone.low = false
        phone.available = TOTAL
        eventually("as before") { engine.memoryReport().budget == BUDGET }
        delay(100.milliseconds)
        assertEquals("no higher", BUDGET, engine.memoryReport().budget)
    }

    @Test
    fun `what is closed leaves the engine alone`() = steered { engine, phone, memory ->
        memory.close()
        phone.stop()
        phone.low = true
        delay(100.milliseconds)
        assertEquals(BUDGET, engine.memoryReport().budget)
        assertTrue("no one is registered", phone.callbacks.isEmpty() && phone.observers.isEmpty())
    }

    @Test
    fun `an engine that is closed first is no trouble`() = steered { engine, phone, memory ->
        engine.close()
        phone.stop()
        phone.start()
        phone.trim(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        delay(50.milliseconds)
        memory.close()
    }

    @Test
    fun `an engine without a budget is refused`() = test {
        withDemo { failsWith<IllegalArgumentException> { HotsetMemory(Phone(true), it, Phone(true).lifecycle) } }
    }

    @Test
    fun `the first budget is what the device has`() {
        assertEquals(TOTAL / 2, initialBudget(Phone(true)))
    }

    private fun steered(
        background: Background = Background.PAUSE,
        visible: Boolean = true,
        body: suspend (Hotset, Phone, HotsetMemory) -> Unit,
    ) = test {
        withDemo(HotsetOptions("cpu", budget = BUDGET)) { engine ->
            val phone = Phone(visible)
            val memory = HotsetMemory(phone, engine, phone.lifecycle, background = background, every = 5.milliseconds)
            memory.use { body(engine, phone, it) }
        }
    }

    private suspend fun eventually(what: String, holds: () -> Boolean) {
        try {
            withTimeout(10.seconds) { while (!holds()) delay(2.milliseconds) }
        } catch (e: TimeoutCancellationException) {
            throw AssertionError("it was not $what within ten seconds", e)
        }
    }
}

/** A phone with one app: its memory, its signals and who listens to them. */
private class Phone(visible: Boolean) : Context() {
    @Volatile var available = TOTAL

    @Volatile var low = false
    val threshold = 256 * MIB
    val callbacks = mutableListOf<ComponentCallbacks>()
    val observers = mutableListOf<LifecycleObserver>()

    val lifecycle = object : Lifecycle() {
        override fun getCurrentState() = if (visible) State.RESUMED else State.CREATED

        override fun addObserver(observer: LifecycleObserver) {
            observers += observer
        }

        override fun removeObserver(observer: LifecycleObserver) {
            observers -= observer
        }
    }

    private val owner = object : LifecycleOwner {}

    fun start() = observers.forEach { (it as DefaultLifecycleObserver).onStart(owner) }

    fun stop() = observers.forEach { (it as DefaultLifecycleObserver).onStop(owner) }

    fun trim(level: Int) = callbacks.forEach { (it as ComponentCallbacks2).onTrimMemory(level) }

    override fun getApplicationContext(): Context = this

    override fun getContentResolver(): ContentResolver = throw UnsupportedOperationException()

    override fun getSystemService(name: String): Any = object : ActivityManager() {
        override fun getMemoryInfo(info: MemoryInfo) {
            info.totalMem = TOTAL
            info.availMem = available
            info.threshold = threshold
            info.lowMemory = low
        }
    }

    override fun registerComponentCallbacks(callback: ComponentCallbacks) {
        callbacks += callback
    }

    override fun unregisterComponentCallbacks(callback: ComponentCallbacks) {
        callbacks -= callback
    }
}

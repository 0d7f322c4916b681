// The policy for budgets, as a table and as a device that is simulated.
package dev.hotset

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.random.Random

private const val GIB = 1024 * MIB

/** A device with 6 GiB: its margin is 384 MiB. */
private const val MARGIN = 384 * MIB
private const val THRESHOLD = 256 * MIB
private val policy = MemoryPolicy(6 * GIB)

private fun reading(headroom: Long, low: Boolean = false) = MemoryReading(THRESHOLD + headroom, THRESHOLD, low)

class MemoryPolicyTest {
    private class Row(val why: String, val now: MemoryReading, val used: Long, val calm: Int, val expected: Long, val budget: Long = used)

    private val least = 300 * MIB
    private val most = 2700 * MIB

    private val table = listOf(
        Row("memory is low: half of what is above the least", reading(2 * MARGIN, low = true), 1500 * MIB, 0, 900 * MIB),
        Row("memory is low and much is missing: all of that", reading(-200 * MIB, low = true), 1500 * MIB, 0, 532 * MIB),
        Row("below a margin: back to two", reading(MARGIN - 84 * MIB), 1500 * MIB, 0, 1032 * MIB),
        Row("far below: never under the least", reading(-2 * GIB), 1500 * MIB, 0, least),
        Row("at a margin: stay", reading(MARGIN), 1500 * MIB, 0, 1500 * MIB),
        Row("at three margins: stay", reading(3 * MARGIN), 1500 * MIB, 99, 1500 * MIB),
        Row("above, but not for long: stay", reading(2 * GIB), 1500 * MIB, MemoryPolicy.PATIENCE - 1, 1500 * MIB),
        Row("above for long: an eighth of the range", reading(2 * GIB), 1500 * MIB, MemoryPolicy.PATIENCE, 1800 * MIB),
        Row("above for long, at the most: stay", reading(2 * GIB), most, MemoryPolicy.PATIENCE, most),
        Row("above for long, near the most: to the most", reading(2 * GIB), 2600 * MIB, MemoryPolicy.PATIENCE, most),
        Row("more than is wanted: back to that", reading(2 * MARGIN), 3 * GIB, 0, most),
        Row("not used up: from what is used", reading(MARGIN - 84 * MIB), 1000 * MIB, 0, 532 * MIB, budget = 1500 * MIB),
        Row("not used up, with room: as it is", reading(2 * MARGIN), 1000 * MIB, 0, 1500 * MIB, budget = 1500 * MIB),
        Row("a least that has risen: up to it", reading(0), least - MIB, 0, least),
        Row("low, at the least already: stay", reading(0, low = true), least, 0, least),
    )

    private fun Row.decide() = policy.budget(now, ModelMemory(budget, used, least, most), calm)

    @Test
    fun `each row of the table`() {
        for (row in table) assertEquals(row.why, row.expected, row.decide())
    }

    @Test
    fun `a step that would leave too little is shorter`() {
        val small = MemoryPolicy(2 * GIB)
        val model = ModelMemory(budget = GIB, used = GIB, least = 0, most = 16 * GIB)
        // A margin of 128 MiB: of 400 there are 144 above two.
        assertEquals(GIB + 144 * MIB, small.budget(reading(400 * MIB), model, MemoryPolicy.PATIENCE))
    }

    @Test
    fun `the first budget`() {
        assertEquals("half of the device", 3 * GIB, policy.initialBudget(reading(5 * GIB)))
        assertEquals("what leaves two margins", 2 * GIB - 2 * MARGIN, policy.initialBudget(reading(2 * GIB)))
        assertEquals("nothing to give", 0L, policy.initialBudget(reading(MARGIN)))
    }

    @Test
    fun `margins have bounds`() {
        assertEquals(GIB - 256 * MIB, MemoryPolicy(GIB * 16 / 10).initialBudget(reading(GIB)).coerceAtLeast(GIB - 256 * MIB))
        assertEquals("at least 128 MiB", 244 * MIB, MemoryPolicy(GIB).initialBudget(reading(500 * MIB)))
        assertEquals("at most 512 MiB", 4 * GIB, MemoryPolicy(24 * GIB).initialBudget(reading(5 * GIB)))
    }

    @Test
    fun `on a quiet device the budget comes to rest`() {
        for (others in 1..5) {
            val device = Device(others * GIB)
            repeat(200) { device.step() }
            val rest = device.budget
            repeat(100) { device.step() }
            assertEquals("with $others GiB taken by others", rest, device.budget)
        }
    }

    @Test
    fun `whatever others do, it shrinks at once and stays in its bounds`() {
        val random = Random(1)
        val device = Device(GIB)
        repeat(2000) {
            device.others = (device.others + random.nextLong(-600 * MIB, 600 * MIB)).coerceIn(GIB / 2, 5 * GIB)
            val before = device.budget
            val headroom = device.reading().available - THRESHOLD
            device.step()
            assertTrue(device.budget in least..most)
            if (headroom < MARGIN && before > least) assertTrue("nothing was given back at $headroom", device.budget < before)
            if (headroom <= 3 * MARGIN) assertTrue("it grew at $headroom", device.budget <= before)
        }
    }

    /** Six GiB, shared by a model that takes what it may and [others]. */
    private inner class Device(var others: Long) {
        var budget = 1500 * MIB
        private var calm = 0

        fun reading(): MemoryReading {
            val available = 6 * GIB - others - budget
            return MemoryReading(available, THRESHOLD, available < THRESHOLD)
        }

        fun step() {
            val now = reading()
            calm = if (policy.hasRoom(now)) calm + 1 else 0
            val next = policy.budget(now, ModelMemory(budget, used = budget, least, most), calm)
            if (next != budget) calm = 0
            budget = next
        }
    }
}

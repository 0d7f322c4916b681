// How much memory a model should take, as a function of what the device has left: figures only, nothing of Android.
package dev.hotset

/**
 * What the system says about its memory.
 *
 * @property available bytes that can be had without hurting others (`ActivityManager.MemoryInfo.availMem`).
 * @property threshold below so many available bytes the system calls memory low and kills processes in the background
 *   (`ActivityManager.MemoryInfo.threshold`).
 * @property low whether it does (`ActivityManager.MemoryInfo.lowMemory`).
 */
public data class MemoryReading(val available: Long, val threshold: Long, val low: Boolean)

/**
 * What a model does with memory.
 *
 * @property budget the bytes that it may take.
 * @property used the bytes that it takes; fewer while it has not met all of its experts, or when they need fewer.
 * @property least the budget to stay above.
 * @property most the budget to stay below.
 */
public data class ModelMemory(val budget: Long, val used: Long, val least: Long, val most: Long)

/**
 * Decides on budgets for a device with [total] bytes of memory.
 *
 * What counts is the *headroom*: available bytes above the system's threshold. It is compared with a margin of 1/16 of the device's memory, at least
 * 128 MiB and at most 512 MiB (a device with 6 GiB has one of 384 MiB):
 *
 * | headroom | the budget |
 * |---|---|
 * | memory is low | becomes what is used less half of what is above the least, or what gives two margins back if that is more |
 * | below one margin | becomes what is used less what gives two margins back |
 * | one to three margins | stays: nothing swings between growing and shrinking |
 * | above three margins, for [PATIENCE] readings on end | grows by an eighth of its range, and never so far that fewer than two margins stay |
 *
 * Shrinking starts at what is used, because a budget that is not used up frees nothing. It is immediate because the system kills without asking; growing is slow because what is free now is often wanted in a moment (the camera
 * opens), and because experts that fill the room must be read first. The figures are judgement, not measurement: an app that knows
 * better gives [HotsetMemory] a subclass.
 */
public open class MemoryPolicy(public val total: Long) {
    private val margin = (total / 16).coerceIn(128L shl 20, 512L shl 20)

    /**
     * The budget to open an engine with: half of the device's memory, or what leaves two margins now if that is less. Not more than half, because
     * the app itself, the system and the keyboard live in the rest, and a process that is large dies first when it is in the background.
     */
    public open fun initialBudget(now: MemoryReading): Long = minOf(total / 2, now.headroom - 2 * margin).coerceAtLeast(0)

    /** Whether there is so much memory that a budget may grow when it stays like this. */
    public open fun hasRoom(now: MemoryReading): Boolean = !now.low && now.headroom > 3 * margin

    /** The budget that the model should have; [calm] is for how many readings on end, this one included, there [was room][hasRoom]. */
    public open fun budget(now: MemoryReading, model: ModelMemory, calm: Int): Long {
        val missing = 2 * margin - now.headroom
        val taken = minOf(model.budget, model.used)
        val wanted = when {
            now.low -> minOf(model.least + (taken - model.least) / 2, taken - missing)
            now.headroom < margin -> taken - missing
            hasRoom(now) && calm >= PATIENCE -> model.budget + minOf((model.most - model.least) / 8, -missing)
            else -> model.budget
        }
        // In this order: what does not work at all is of no use to anybody.
        return wanted.coerceAtMost(model.most).coerceAtLeast(model.least)
    }

    public companion object {
        /** So many readings on end must show room before a budget grows: half a minute at a reading every five seconds. */
        public const val PATIENCE: Int = 6
    }
}

private val MemoryReading.headroom: Long get() = available - threshold

// Keeps an engine's budget in step with the device's memory: the part of it that knows nothing of Android.
package dev.hotset

/** Moves the budget of [engine] by [policy], on what [read] tells; never above the budget that it had at first, which is what the app chose. */
internal class MemoryWatch(private val engine: Hotset, private val policy: MemoryPolicy, private val read: () -> MemoryReading) {
    private val ceiling =
        requireNotNull(engine.memoryReport().budget) { "open the engine with a budget, such as initialBudget(context), to have it steered" }
    private var calm = 0

    /** Looks once, to be called at regular intervals. */
    @Synchronized
    fun look() {
        val now = read()
        val model = model() ?: return
        calm = if (policy.hasRoom(now)) calm + 1 else 0
        move(model, policy.budget(now, model, calm))
    }

    /** Goes down to the least at once. */
    @Synchronized
    fun shrink() {
        val model = model() ?: return
        move(model, model.least)
    }

    private fun move(model: ModelMemory, budget: Long) {
        if (budget == model.budget) return
        engine.setBudget(budget)
        // The next growth is as patient as this one was.
        calm = 0
    }

    /** Nothing while the engine is paused: it holds no memory then. */
    private fun model(): ModelMemory? {
        val report = engine.memoryReport()
        val budget = report.budget
        val least = report.least
        val all = report.allExperts
        if (report.paused || budget == null || least == null || all == null) return null
        val whole = report.used - report.experts + all
        return ModelMemory(budget, least, minOf(ceiling, whole).coerceAtLeast(least))
    }
}

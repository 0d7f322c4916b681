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
        move(model, minOf(model.budget, model.least))
    }

    /** Gives conversations that grow the room they need, and takes and gives nothing else. */
    @Synchronized
    fun hold() {
        val model = model() ?: return
        move(model, maxOf(model.budget, model.least))
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
        val budget = report.budget ?: return null
        val least = report.least ?: return null
        if (report.paused) return null
        return ModelMemory(budget, report.used, least + least / RESERVE, ceiling)
    }

    private companion object {
        /**
         * What works at this moment is too little for the next: conversations grow by each token, and an answer that no longer fits fails. A quarter
         * more is hundreds of tokens, and until those are used up the watch has looked again.
         */
        const val RESERVE = 4
    }
}

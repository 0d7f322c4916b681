// The line of figures under the conversation, as text.
package dev.hotset.sample

import dev.hotset.MemoryReport
import dev.hotset.Statistics
import java.util.Locale

/** Tokens per second, memory in use of what is allowed, and the share of experts that were there: as far as there is something to say. */
fun status(statistics: Statistics, memory: MemoryReport?): String =
    listOfNotNull(
        statistics.tokensPerSecond?.let { "%.1f tokens/s".format(Locale.ROOT, it) },
        memory?.let { mebibytes(it.used) + (it.budget?.let { budget -> " of ${mebibytes(budget)}" } ?: "") },
        memory?.hitRate?.let { "%.0f %% of experts at hand".format(Locale.ROOT, 100 * it) },
    ).joinToString(" · ")

private fun mebibytes(bytes: Long): String = "%d MiB".format(Locale.ROOT, (bytes + (1L shl 19)) shr 20)

// What Android says about the device's memory.
package dev.hotset

import android.app.ActivityManager
import android.content.Context

/** A budget to open an engine with on this device, now: see [MemoryPolicy.initialBudget]. */
public fun initialBudget(context: Context): Long = MemoryPolicy(totalMemory(context)).initialBudget(readMemory(context))

internal fun totalMemory(context: Context): Long = memoryInfo(context).totalMem

internal fun readMemory(context: Context): MemoryReading {
    val info = memoryInfo(context)
    return MemoryReading(info.availMem, info.threshold, info.lowMemory)
}

private fun memoryInfo(context: Context): ActivityManager.MemoryInfo {
    val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
    return ActivityManager.MemoryInfo().also(manager::getMemoryInfo)
}

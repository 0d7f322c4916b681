// How much memory this process may still take.

import Foundation

#if os(iOS) || os(tvOS) || os(visionOS)
    import os
#endif

/// How much memory this process may still take before the system ends it.
public enum AvailableMemory {
    /// Bytes, now.
    ///
    /// - iOS: what is left of the app's own limit. The limit depends on the device and on the entitlement
    ///   `com.apple.developer.kernel.increased-memory-limit`; exceeding it ends the app, with or without pressure elsewhere.
    /// - macOS and the simulator, which have no such limit: half of the machine's memory.
    /// - Linux: what the kernel estimates it can give without swapping.
    public static var now: UInt64 {
        #if os(Linux)
            let table = (try? String(contentsOfFile: "/proc/meminfo", encoding: .utf8)) ?? ""
            return meminfo(table)
        #elseif (os(iOS) || os(tvOS) || os(visionOS)) && !targetEnvironment(simulator)
            return UInt64(os_proc_available_memory())
        #else
            return ProcessInfo.processInfo.physicalMemory / 2
        #endif
    }

    /// What a `/proc/meminfo` says is available, in bytes; 0 if it does not.
    static func meminfo(_ table: String) -> UInt64 {
        let row = table.split(separator: "\n").first { $0.hasPrefix("MemAvailable:") }
        let kilobytes = row?.split(separator: " ").dropFirst().first.flatMap { UInt64($0) }
        return (kilobytes ?? 0) * 1024
    }
}

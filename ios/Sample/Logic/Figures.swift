// Numbers as people read them.

import Foundation

/// Numbers as people read them.
enum Figures {
    /// "1.5 GB": bytes as shops and the system count them.
    static func bytes(_ count: Int64) -> String {
        let units = ["B", "kB", "MB", "GB", "TB"]
        var (value, unit) = (Double(count), 0)
        while value >= 999.5, unit + 1 < units.count {
            value /= 1000
            unit += 1
        }
        return String(format: unit > 0 && value < 9.95 ? "%.1f %@" : "%.0f %@", value, units[unit])
    }

    static func bytes(_ count: UInt64) -> String {
        bytes(Int64(clamping: count))
    }

    /// "12.3 tokens/s"; a dash before there is a rate.
    static func rate(_ tokensPerSecond: Double?) -> String {
        tokensPerSecond.map { String(format: $0 < 99.95 ? "%.1f tokens/s" : "%.0f tokens/s", $0) } ?? "–"
    }

    /// "87 %"; a dash before there is a share.
    static func share(_ share: Double?) -> String {
        share.map { String(format: "%.0f %%", $0 * 100) } ?? "–"
    }
}

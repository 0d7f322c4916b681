// Which budget a model gets: a pure function of what the system says.

/// How short of memory the system is.
public enum MemoryPressure: Sendable, Hashable, CaseIterable {
    /// It is not, or not any more.
    case normal
    /// Apps should give back what they can.
    case warning
    /// Apps that do not are ended.
    case critical
}

/// Decides on a model's memory budget. It decides only; ``HotsetMemory`` asks it and acts.
///
/// | situation | budget |
/// |---|---|
/// | at the start | three quarters of what the process may still take, and at least 256 MiB less than that |
/// | `warning` | half of what the model takes now |
/// | `critical` | the least that works, and a quarter more |
/// | `normal` again | as at the start, but below three quarters of what was too much before |
///
/// Never less than the least that works, and a quarter more for conversations that grow, if the model has that much: there the engine goes on,
/// slowly, with the same answers.
///
/// The numbers: What remains of a quarter is for the app itself, for views, images and what the system allocates on its behalf, all of which count
/// against the same limit. A warning asks for a noticeable step, and half of the experts cost less than half of the speed: those that are used
/// often stay. The last row keeps a model from growing into the same warning again and again.
public struct BudgetPolicy: Sendable, Hashable {
    /// The share of the free memory that a model may take.
    public var share: Double
    /// Bytes that stay free at least.
    public var reserve: UInt64

    /// A policy. Raise `reserve` for an app with large images or video of its own.
    public init(share: Double = 0.75, reserve: UInt64 = 256 << 20) {
        self.share = share
        self.reserve = reserve
    }

    /// The budget for a model that is about to be opened.
    ///
    /// - Parameter free: Bytes that the process may still take: ``AvailableMemory/now``.
    public func budget(free: UInt64) -> UInt64 {
        let unreserved = free > reserve ? free - reserve : 0
        return min(UInt64(Double(free) * share), unreserved)
    }

    /// What is known when a budget is decided on again. Bytes.
    public struct Situation: Sendable, Hashable {
        /// The budget in force.
        public var budget: UInt64
        /// The smallest that works.
        public var least: UInt64
        /// What the model takes now.
        public var used: UInt64
        /// What the process may still take.
        public var free: UInt64
        /// The least that the model took when a warning came, if one came.
        public var tooMuch: UInt64?

        /// A situation.
        public init(budget: UInt64, least: UInt64, used: UInt64, free: UInt64, tooMuch: UInt64? = nil) {
            self.budget = budget
            self.least = least
            self.used = used
            self.free = free
            self.tooMuch = tooMuch
        }
    }

    /// The budget from now on.
    public func budget(after pressure: MemoryPressure, _ now: Situation) -> UInt64 {
        let wanted =
            switch pressure {
            case .normal: min(budget(free: now.free + now.used), now.tooMuch.map { $0 / 4 * 3 } ?? .max)
            case .warning: min(now.budget, now.used) / 2
            case .critical: UInt64(0)
            }
        let floor = now.least + now.least / 4
        return max(wanted, now.least, pressure == .normal ? floor : min(floor, now.budget))
    }
}

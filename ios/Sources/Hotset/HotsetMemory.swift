// Keeps an engine within what the system grants: budgets under memory pressure, suspension in the background.

import Foundation

/// Keeps an engine alive and within what the system grants, as long as it is referenced.
///
/// ```swift
/// let engine = try await HotsetEngine.open(url, options: EngineOptions(budget: BudgetPolicy().budget(free: AvailableMemory.now)))
/// self.memory = HotsetMemory(engine)     // a property: what nobody refers to is gone at once
/// ```
///
/// - **Memory pressure** (all Apple systems, and UIKit's memory warning) changes the budget as ``BudgetPolicy`` decides. An engine that was opened
///   without a budget is left as it is.
/// - **The app goes to the background** (UIKit): the engine is suspended, in time that the system is asked for. Answers under way wait.
/// - **It comes back**: the engine is resumed, and answers go on.
///
/// Elsewhere, or for other occasions, call ``respond(to:)``, ``enterBackground()`` and ``enterForeground()`` yourself.
public final class HotsetMemory: Sendable {
    private let engine: HotsetEngine
    private let policy: BudgetPolicy
    private let onFailure: @Sendable (any Error) -> Void
    /// The least that the model took when a warning came.
    private let tooMuch = Guarded<UInt64?>(nil)

    #if canImport(Darwin)
        private let watch = Guarded<SystemWatch?>(nil)
    #endif

    /// Starts to look after `engine`.
    ///
    /// - Parameters:
    ///   - engine: What to look after.
    ///   - policy: Decides on budgets.
    ///   - onFailure: Told when something did not work that nobody called for, such as resuming without enough memory, on any thread.
    public init(_ engine: HotsetEngine, policy: BudgetPolicy = BudgetPolicy(), onFailure: @escaping @Sendable (any Error) -> Void = { _ in }) {
        self.engine = engine
        self.policy = policy
        self.onFailure = onFailure
        #if canImport(Darwin)
            watch { $0 = SystemWatch(self) }
        #endif
    }

    /// Gives the engine the budget that fits `pressure`.
    ///
    /// - Returns: The budget now in force; `nil` when there is none, or when the engine is suspended and takes nothing.
    /// - Throws: `HotsetError.Closed` after the engine was closed.
    @discardableResult
    public func respond(to pressure: MemoryPressure) throws -> UInt64? {
        let report = try engine.memoryReport()
        guard let budget = report.budget, let least = report.least, !report.suspended else { return nil }
        if pressure != .normal {
            tooMuch { $0 = min($0 ?? .max, report.used) }
        }
        let now = BudgetPolicy.Situation(
            budget: budget, least: least, used: report.used, free: AvailableMemory.now, tooMuch: tooMuch { $0 })
        let wanted = policy.budget(after: pressure, now)
        if wanted != budget {
            try engine.setBudget(wanted)
        }
        return wanted
    }

    /// Suspends the engine: nothing of it is left on the device when this returns.
    public func enterBackground() async {
        do { try await engine.suspend() } catch { onFailure(error) }
    }

    /// Resumes the engine. What was too much before may not be any more: other apps have come and gone.
    public func enterForeground() async {
        do {
            try await engine.resume()
            tooMuch { $0 = nil }
            try respond(to: .normal)
        } catch {
            onFailure(error)
        }
    }

    /// ``respond(to:)`` for a caller who cannot do anything about an error.
    func pressureChanged(to pressure: MemoryPressure) {
        do { try respond(to: pressure) } catch { onFailure(error) }
    }
}

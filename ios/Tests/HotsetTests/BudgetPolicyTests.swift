// The policy is a function: tables of what goes in and what comes out.

import XCTest

@testable import Hotset

final class BudgetPolicyTests: XCTestCase {
    private let MiB: UInt64 = 1 << 20

    func testBudgetsAtTheStart() {
        let rows: [(free: UInt64, budget: UInt64)] = [
            (0, 0), (100, 0), (256, 0), (300, 44), (512, 256), (1000, 744), (1024, 768), (2048, 1536), (4096, 3072),
        ]
        for row in rows {
            XCTAssertEqual(BudgetPolicy().budget(free: row.free * MiB), row.budget * MiB, "\(row.free) MiB")
        }
        XCTAssertEqual(BudgetPolicy(share: 0.5, reserve: 0).budget(free: 1000), 500)
    }

    func testBudgetsUnderPressure() {
        typealias Row = (MemoryPressure, budget: UInt64, least: UInt64, used: UInt64, free: UInt64, tooMuch: UInt64?, expected: UInt64)
        let rows: [Row] = [
            // A warning halves what is taken, and not what might be.
            (.warning, 2000, 300, 2000, 100, nil, 1000),
            (.warning, 2000, 300, 800, 100, nil, 400),
            (.warning, 600, 300, 800, 100, nil, 375),
            // Never less than the least and some room to grow, unless there is none.
            (.warning, 500, 300, 500, 100, nil, 375),
            (.critical, 2000, 300, 2000, 0, nil, 375),
            (.critical, 300, 300, 300, 0, 500, 300),
            // When it is over, what it takes is as good as free.
            (.normal, 300, 300, 300, 1748, nil, 1536),
            (.normal, 300, 300, 300, 0, nil, 375),
            // What was too much is not tried again.
            (.normal, 500, 300, 500, 3596, 2000, 1500),
            (.normal, 500, 300, 500, 1000, 2000, 1125),
            (.normal, 300, 300, 300, 3796, 360, 375),
        ]
        for (pressure, budget, least, used, free, tooMuch, expected) in rows {
            let now = BudgetPolicy.Situation(
                budget: budget * MiB, least: least * MiB, used: used * MiB, free: free * MiB, tooMuch: tooMuch.map { $0 * MiB })
            XCTAssertEqual(BudgetPolicy().budget(after: pressure, now), expected * MiB, "\(pressure) \(now)")
        }
    }

    func testWarningsAndRecoveriesComeToRest() {
        // A system with room for 1000 that warns above: the model must settle below and stay.
        let policy = BudgetPolicy(share: 1, reserve: 0)
        var now = BudgetPolicy.Situation(budget: 4000, least: 100, used: 4000, free: 0)
        var warnings = 0
        for _ in 0..<50 {
            if now.used > 1000 {
                warnings += 1
                now.tooMuch = min(now.tooMuch ?? .max, now.used)
                now.budget = policy.budget(after: .warning, now)
            } else {
                now.budget = policy.budget(after: .normal, now)
            }
            now.free += now.used
            now.used = now.budget
            now.free -= min(now.free, now.used)
        }
        XCTAssertLessThan(warnings, 10)
        XCTAssertGreaterThan(now.used, 500)
        XCTAssertLessThanOrEqual(now.used, 1000)
    }
}

// Budgets: hard, changeable at any time, and never a change of the answer.

import XCTest

@testable import Hotset

final class BudgetTests: XCTestCase {
    func testABudgetHolds() async throws {
        let engine = try await HotsetEngine.demo(budget: 12_000_000)
        let (prompt, options, expected) = try Given.answer
        let text = try await engine.session().complete(prompt, options: options).text()
        XCTAssertEqual(text, expected)
        let report = try engine.memoryReport()
        XCTAssertEqual(report.budget, 12_000_000)
        XCTAssertLessThanOrEqual(report.used, 12_000_000)
        XCTAssertGreaterThan(report.misses, 0)
        XCTAssertGreaterThan(try XCTUnwrap(report.hitRate), 0)
    }

    func testABudgetCanChangeInTheMiddleOfAnAnswer() async throws {
        let engine = try await HotsetEngine.demo(budget: 14_000_000)
        let (prompt, options, expected) = try Given.answer
        let least = try XCTUnwrap(engine.memoryReport().least)
        var text = ""
        var count = 0
        for try await token in try engine.session().complete(prompt, options: options) {
            text += token.text
            count += 1
            if count == 5 {
                // Now also the session's caches count.
                try engine.setBudget(try XCTUnwrap(engine.memoryReport().least))
            }
            if count == 10 { try engine.setBudget(14_000_000) }
        }
        XCTAssertEqual(text, expected)
        XCTAssertGreaterThan(least, 0)
    }

    func testABudgetThatIsTooSmallIsATypedErrorAndChangesNothing() async throws {
        let engine = try await HotsetEngine.demo(budget: 12_000_000)
        let failure = await kind { try engine.setBudget(1000) }
        XCTAssertEqual(failure, "Invalid")
        XCTAssertEqual(try engine.memoryReport().budget, 12_000_000)
        let opening = await kind { _ = try await HotsetEngine.demo(budget: 1000) }
        XCTAssertEqual(opening, "Invalid")
    }

    func testWithoutABudgetThereIsNoneToChange() async throws {
        let failure = await kind { try await HotsetEngine.demo().setBudget(12_000_000) }
        XCTAssertEqual(failure, "Invalid")
    }

    func testWhatWasLearnedIsKept() async throws {
        let heat = try temporaryFolder(self).appendingPathComponent("heat.json")
        let engine = try await HotsetEngine.demo(budget: 12_000_000)
        let (prompt, options, _) = try Given.answer
        _ = try await engine.session().complete(prompt, options: options).text()
        try engine.saveHeat(to: heat)
        XCTAssertFalse(try Data(contentsOf: heat).isEmpty)
        let again = try await HotsetEngine.open(
            Given.bundle, options: EngineOptions(device: "cpu", budget: 12_000_000, heat: heat.path))
        XCTAssertEqual(try again.memoryReport().budget, 12_000_000)
    }

    func testTextThatIsNoProfileIsATypedError() async throws {
        let engine = try await HotsetEngine.demo()
        let failure = await kind { try engine.useProfile("{}", options: ProfileOptions(keep: 0.5)) }
        XCTAssertEqual(failure, "Invalid")
    }
}

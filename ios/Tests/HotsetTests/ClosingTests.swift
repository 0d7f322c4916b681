// Ends: everything can be closed at any time, and what is closed says so.

import XCTest

@testable import Hotset

final class ClosingTests: XCTestCase {
    func testAClosedEngineSaysSo() async throws {
        let engine = try await HotsetEngine.demo()
        let session = try engine.session()
        let answer = try session.complete("Once upon a time", options: .endless)
        engine.close()
        engine.close()
        let failures = [
            await kind { _ = try engine.info },
            await kind { _ = try engine.session() },
            await kind { _ = try engine.memoryReport() },
            await kind { try engine.setBudget(1 << 30) },
            await kind { try await engine.suspend() },
            await kind { try await engine.resume() },
            await kind { _ = try await engine.restore(from: URL(fileURLWithPath: "/tmp/never")) },
            await kind { _ = try session.send("Hello?") },
            await kind { _ = try session.messages },
            await kind { try await session.save(to: URL(fileURLWithPath: "/tmp/never")) },
        ]
        XCTAssertEqual(failures, Array(repeating: "Closed", count: failures.count))
        engine.clearProfile()
        await answer.ended()
        XCTAssertEqual(answer.stopReason, .cancelled)
    }

    func testClosingTheEngineEndsAnswersUnderWay() async throws {
        let engine = try await HotsetEngine.demo()
        let answer = try engine.session().complete("Once upon a time", options: .endless)
        var taken: UInt64 = 0
        for try await _ in answer {
            taken += 1
            if taken == 10 { engine.close() }
        }
        XCTAssertLessThanOrEqual(taken, 15)
        XCTAssertEqual(answer.stopReason, .cancelled)
    }

    func testClosingTheSessionEndsItsAnswerOnly() async throws {
        let engine = try await HotsetEngine.demo()
        let (one, other) = (try engine.session(), try engine.session())
        let answer = try one.complete("Once upon a time", options: .endless)
        one.close()
        one.close()
        let rest = try await answer.text()
        XCTAssertLessThan(rest.count, 200)
        let failure = await kind { _ = try one.send("Hello?") }
        XCTAssertEqual(failure, "Closed")
        let (prompt, options, expected) = try Given.answer
        let text = try await other.complete(prompt, options: options).text()
        XCTAssertEqual(text, expected)
    }

    func testAnAnswerOutlivesItsEngineAndSessionAndIsAtItsEnd() async throws {
        let answer = try await { () async throws -> Answer in
            let engine = try await HotsetEngine.demo()
            let answer = try engine.session().complete("Once upon a time", options: .endless)
            engine.close()
            return answer
        }()
        let rest = try await answer.text()
        XCTAssertLessThan(rest.count, 200)
        XCTAssertEqual(answer.stopReason, .cancelled)
        answer.cancel()
    }

    func testAThousandSessionsLeaveNothingBehind() async throws {
        let engine = try await HotsetEngine.demo()
        func sessions(_ count: Int) async throws {
            for seed in 0..<count {
                let session = try engine.session()
                let text = try await session.complete("Once", options: GenerateOptions(maxTokens: 2, seed: UInt64(seed))).text()
                XCTAssertFalse(text.isEmpty)
            }
        }
        try await sessions(200)
        let before = try residentBytes()
        try await sessions(1000)
        let grown = try residentBytes() - before
        // The caches of one session alone are larger than what a thousand may leave.
        XCTAssertLessThan(grown, 4 << 20)
    }
}

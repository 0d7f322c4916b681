// Conversations that outlive a process or an absence: saving, restoring, suspending.

import XCTest

@testable import Hotset

final class ConversationTests: XCTestCase {
    private let next = GenerateOptions(maxTokens: 20, seed: 5)

    func testARestoredConversationGoesOnAlike() async throws {
        let file = try temporaryFolder(self).appendingPathComponent("conversation")
        let engine = try await HotsetEngine.demo()
        let session = try engine.session(SessionOptions(context: 512, system: "Be brief."))
        _ = try await session.send("Tell me a story.", options: GenerateOptions(maxTokens: 20, seed: 4)).text()
        try await session.save(to: file)
        let expected = try await session.send("And then?", options: next).text()

        for engine in [engine, try await HotsetEngine.demo()] {
            let restored = try await engine.restore(from: file)
            XCTAssertEqual(try restored.messages, try Array(session.messages.dropLast(2)))
            let text = try await restored.send("And then?", options: next).text()
            XCTAssertEqual(text, expected)
            XCTAssertEqual(try restored.tokenCount, try session.tokenCount)
        }
    }

    func testWhatIsNoConversationIsATypedError() async throws {
        let folder = try temporaryFolder(self)
        let engine = try await HotsetEngine.demo()
        let session = try engine.session()
        _ = try await session.complete("Once upon a time", options: next).text()
        let file = folder.appendingPathComponent("conversation")
        try await session.save(to: file)
        let whole = try Data(contentsOf: file)
        try whole.prefix(whole.count / 2).write(to: file)
        let failures = [
            await kind { _ = try await engine.restore(from: file) },
            await kind { _ = try await engine.restore(from: folder.appendingPathComponent("missing")) },
            await kind { try await session.save(to: folder.appendingPathComponent("no such folder/conversation")) },
        ]
        XCTAssertEqual(failures, ["Broken", "File", "File"])
    }

    func testSuspendingInTheMiddleOfAnAnswerDoesNotChangeIt() async throws {
        let (prompt, options, expected) = try Given.answer
        let engine = try await HotsetEngine.demo(budget: 12_000_000)
        let answer = try engine.session().complete(prompt, options: options)
        var iterator = answer.makeAsyncIterator()
        var text = ""
        for _ in 0..<5 { text += try await iterator.next()?.text ?? "" }

        try await engine.suspend()
        let report = try engine.memoryReport()
        XCTAssertTrue(report.suspended)
        XCTAssertEqual(report.used, 0)
        let refused = await kind { _ = try engine.session() }
        XCTAssertEqual(refused, "Suspended")
        let generated = answer.statistics.generatedTokens
        try await Task.sleep(nanoseconds: 50_000_000)
        XCTAssertLessThanOrEqual(answer.statistics.generatedTokens, min(generated + 1, 10))
        XCTAssertNil(answer.stopReason)

        try await engine.resume()
        XCTAssertFalse(try engine.memoryReport().suspended)
        while let token = try await iterator.next() { text += token.text }
        XCTAssertEqual(text, expected)
    }

    func testAnAnswerCanBeCancelledWhileTheEngineIsSuspended() async throws {
        let engine = try await HotsetEngine.demo(budget: 12_000_000)
        let session = try engine.session()
        let answer = try session.complete("Once upon a time", options: .endless)
        var iterator = answer.makeAsyncIterator()
        _ = try await iterator.next()
        try await engine.suspend()
        answer.cancel()
        await answer.ended()
        XCTAssertEqual(answer.stopReason, .cancelled)
        try await engine.resume()
        let text = try await session.complete("", options: next).text()
        XCTAssertFalse(text.isEmpty)
    }

    func testSuspendingTwiceAndResumingTwiceIsNoHarm() async throws {
        let (prompt, options, expected) = try Given.answer
        let engine = try await HotsetEngine.demo()
        try await engine.suspend()
        try await engine.suspend()
        try await engine.resume()
        try await engine.resume()
        let text = try await engine.session().complete(prompt, options: options).text()
        XCTAssertEqual(text, expected)
    }
}

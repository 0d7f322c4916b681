// Answers: the right text, and an end when nobody wants them any more.

import XCTest

@testable import Hotset

final class AnswerTests: XCTestCase {
    func testTheAnswerIsTheOneThatRustGives() async throws {
        let (prompt, options, expected) = try Given.answer
        let answer = try await HotsetEngine.demo().session().complete(prompt, options: options)
        var text = ""
        var count = 0
        for try await token in answer {
            text += token.text
            count += 1
        }
        XCTAssertEqual(text, expected)
        XCTAssertEqual(count, Int(options.maxTokens))
        XCTAssertEqual(answer.stopReason, .maxTokens)
        XCTAssertEqual(answer.statistics.generatedTokens, UInt64(count))
        XCTAssertGreaterThan(try XCTUnwrap(answer.statistics.tokensPerSecond), 0)
    }

    func testAnswersCanBeReadOnTheMainActor() async throws {
        @MainActor
        func read(_ answer: Answer) async throws -> String {
            var text = ""
            for try await token in answer {
                MainActor.assertIsolated()
                text += token.text
            }
            return text
        }
        let (prompt, options, expected) = try Given.answer
        let text = try await read(try await HotsetEngine.demo().session().complete(prompt, options: options))
        XCTAssertEqual(text, expected)
    }

    func testAStopTextEndsTheAnswer() async throws {
        let (prompt, options, expected) = try Given.answer
        let word = try XCTUnwrap(expected.split(separator: " ").dropFirst(5).first).description
        var stopping = options
        stopping.stop = [word]
        let answer = try await HotsetEngine.demo().session().complete(prompt, options: stopping)
        let text = try await answer.text()
        XCTAssertEqual(text, String(expected[..<expected.range(of: word)!.lowerBound]))
        XCTAssertEqual(answer.stopReason, .stopText)
    }

    func testAMessageIsAnsweredAndRemembered() async throws {
        let session = try await HotsetEngine.demo().session(SessionOptions(system: "Be brief."))
        let text = try await session.send("Tell me a story.", options: GenerateOptions(maxTokens: 12, seed: 3)).text()
        XCTAssertFalse(text.isEmpty)
        let messages = try session.messages
        XCTAssertEqual(messages.map(\.role), [.system, .user, .assistant])
        XCTAssertEqual(messages.map(\.text), ["Be brief.", "Tell me a story.", text])
        try session.reset()
        XCTAssertEqual(try session.messages.map(\.role), [.system])
    }

    func testCharactersAreWhole() async throws {
        let session = try await HotsetEngine.demo().session()
        // Two bytes and more for a letter, which are tokens of their own.
        let options = GenerateOptions(maxTokens: 400, temperature: 1, topK: 0, topP: 1, seed: 11)
        var texts: [String] = []
        for try await token in try session.complete("Es war einmal ein König, der hätte gern eine schöne Mühle für seine Töchter", options: options) {
            texts.append(token.text)
        }
        let scalars = texts.joined().unicodeScalars
        XCTAssertTrue(scalars.contains { !$0.isASCII }, "no such letter came: \(texts.joined())")
        XCTAssertFalse(scalars.contains("\u{FFFD}"), "a part of a letter came: \(texts.joined())")
    }

    func testCancelStopsTheModelWithinAToken() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.complete("Once upon a time", options: .endless)
        var iterator = answer.makeAsyncIterator()
        for _ in 0..<10 {
            let token = try await iterator.next()
            XCTAssertNotNil(token)
        }
        answer.cancel()
        try await stays(answer, after: 10)
        let after = try await session.complete("", options: GenerateOptions(maxTokens: 3, seed: 1)).text()
        XCTAssertFalse(after.isEmpty)
    }

    func testLeavingTheLoopStopsTheModel() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.complete("Once upon a time", options: .endless)
        var taken: UInt64 = 0
        for try await _ in answer {
            taken += 1
            if taken == 7 { break }
        }
        try await stays(answer, after: taken)
        XCTAssertGreaterThan(try session.tokenCount, 7)
    }

    func testCancellingTheTaskEndsTheLoopAndStopsTheModel() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.complete("Once upon a time", options: .endless)
        let taken = Guarded<UInt64>(0)
        let reading = Task {
            for try await _ in answer { taken { $0 += 1 } }
            return Task.isCancelled
        }
        try await eventually("some tokens are taken") { taken { $0 } >= 5 }
        reading.cancel()
        let ended = try await reading.value
        XCTAssertTrue(ended)
        XCTAssertGreaterThan(try session.tokenCount, 5)
        try await stays(answer, after: taken { $0 })
    }

    func testAnAnswerThatNobodyKeepsIsStopped() async throws {
        let session = try await HotsetEngine.demo().session()
        _ = try session.complete("Once upon a time", options: .endless)
        // An answer that is not stopped waits for its reader for ever, and its session with it.
        try await eventually("the session can be asked") { (try? session.tokenCount) != nil }
    }

    func testASlowReaderHoldsUpTheModel() async throws {
        let answer = try await HotsetEngine.demo().session().complete("Once upon a time", options: .endless)
        var iterator = answer.makeAsyncIterator()
        _ = try await iterator.next()
        try await Task.sleep(nanoseconds: 200_000_000)
        XCTAssertLessThanOrEqual(answer.statistics.generatedTokens, 1 + 5)
        _ = try await iterator.next()
    }

    func testCancelWhileTheQuestionIsRead() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.complete(longPrompt, options: .endless)
        let asked = ContinuousClock.now
        try await Task.sleep(nanoseconds: 20_000_000)
        answer.cancel()
        await answer.ended()
        XCTAssertEqual(answer.statistics.generatedTokens, 0, "it was read within \(ContinuousClock.now - asked)")
        XCTAssertEqual(answer.stopReason, .cancelled)
        let none = try await answer.text()
        XCTAssertEqual(none, "")
    }

    func testAMessageThatGetsNoAnswerIsTakenBack() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.send(longPrompt, options: .endless)
        answer.cancel()
        await answer.ended()
        XCTAssertEqual(try session.messages, [])
    }

    func testABusySessionSaysSo() async throws {
        let session = try await HotsetEngine.demo().session()
        let answer = try session.complete("Once upon a time", options: .endless)
        let failures = [
            await kind { _ = try session.send("And then?") },
            await kind { _ = try session.messages },
            await kind { try session.reset() },
            await kind { try await session.save(to: URL(fileURLWithPath: "/tmp/never")) },
        ]
        XCTAssertEqual(failures, ["Busy", "Busy", "Busy", "Busy"])
        answer.cancel()
        await answer.ended()
        XCTAssertGreaterThan(try session.tokenCount, 0)
    }

    func testWhoSeesTheEndCanAskAtOnce() async throws {
        let session = try await HotsetEngine.demo().session()
        for seed in 0..<50 {
            let answer = try session.complete("Once upon a time", options: GenerateOptions(maxTokens: 3000, seed: UInt64(seed)))
            var taken = 0
            for try await _ in answer {
                taken += 1
                if taken == 2 { answer.cancel() }
            }
            XCTAssertEqual(answer.stopReason, .cancelled)
            try session.reset()
        }
    }

    func testTextThatDoesNotFitIsATypedError() async throws {
        let session = try await HotsetEngine.demo().session(SessionOptions(context: 64))
        let failure = await kind { _ = try await session.complete(longPrompt).text() }
        XCTAssertEqual(failure, "ContextFull")
    }

    func testOptionsOutOfRangeAreATypedError() async throws {
        let session = try await HotsetEngine.demo().session()
        let failure = await kind { _ = try await session.complete("Once", options: GenerateOptions(topP: 7)).text() }
        XCTAssertEqual(failure, "Invalid")
    }

    /// Holds when the model stopped at most five tokens after those that were taken, for good: four that were waiting and one under way.
    private func stays(_ answer: Answer, after taken: UInt64, file: StaticString = #filePath, line: UInt = #line) async throws {
        try await eventually("the answer ends", file: file, line: line) { answer.stopReason != nil }
        XCTAssertEqual(answer.stopReason, .cancelled, file: file, line: line)
        let generated = answer.statistics.generatedTokens
        XCTAssertLessThanOrEqual(generated, taken + 5, file: file, line: line)
        try await Task.sleep(nanoseconds: 50_000_000)
        XCTAssertEqual(answer.statistics.generatedTokens, generated, "it goes on", file: file, line: line)
    }
}

// Living with what the system grants: the policy applied to an engine.

import XCTest

@testable import Hotset

final class MemoryTests: XCTestCase {
    func testPressureShrinksTheBudgetAndItsEndRestoresIt() async throws {
        let engine = try await HotsetEngine.demo(budget: 14_000_000)
        let memory = HotsetMemory(engine)
        let session = try engine.session()
        _ = try await session.complete("Once upon a time", options: GenerateOptions(maxTokens: 50, seed: 1)).text()
        let used = try engine.memoryReport().used

        let shrunk = try memory.respond(to: .critical)
        let least = try XCTUnwrap(engine.memoryReport().least)
        XCTAssertEqual(shrunk, least + least / 4)
        XCTAssertEqual(shrunk, try engine.memoryReport().budget)
        XCTAssertLessThan(try engine.memoryReport().used, used)

        let after = try XCTUnwrap(memory.respond(to: .normal))
        XCTAssertGreaterThan(after, try XCTUnwrap(shrunk))
        XCTAssertLessThanOrEqual(after, used / 4 * 3, "what was too much is tried again")
    }

    func testAnEngineWithoutABudgetIsLeftAsItIs() async throws {
        let engine = try await HotsetEngine.demo()
        XCTAssertNil(try HotsetMemory(engine).respond(to: .critical))
        XCTAssertNil(try engine.memoryReport().budget)
    }

    func testAnAppThatLeavesAndComesBackFindsItsAnswer() async throws {
        let (prompt, options, expected) = try Given.answer
        let engine = try await HotsetEngine.demo(budget: 14_000_000)
        let failures = Guarded<[any Error]>([])
        let memory = HotsetMemory(engine) { error in failures { $0.append(error) } }
        let answer = try engine.session().complete(prompt, options: options)
        var iterator = answer.makeAsyncIterator()
        var text = try await iterator.next()?.text ?? ""
        await memory.enterBackground()
        XCTAssertTrue(try engine.memoryReport().suspended)
        XCTAssertNil(try memory.respond(to: .warning))
        await memory.enterForeground()
        XCTAssertFalse(try engine.memoryReport().suspended)
        while let token = try await iterator.next() { text += token.text }
        XCTAssertEqual(text, expected)
        XCTAssertEqual(failures { $0.count }, 0)
    }

    func testWhatFailsUnaskedIsTold() async throws {
        let engine = try await HotsetEngine.demo()
        let failures = Guarded<[any Error]>([])
        let memory = HotsetMemory(engine) { error in failures { $0.append(error) } }
        engine.close()
        await memory.enterBackground()
        await memory.enterForeground()
        memory.pressureChanged(to: .warning)
        XCTAssertEqual(failures { $0.map { Mirror(reflecting: $0).children.first?.label } }, ["Closed", "Closed", "Closed"])
    }

    func testAvailableMemory() throws {
        let table = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\nBuffers:          100000 kB\n"
        XCTAssertEqual(AvailableMemory.meminfo(table), 20_000_000 * 1024)
        XCTAssertEqual(AvailableMemory.meminfo("MemTotal: 5 kB\n"), 0)
        XCTAssertGreaterThan(AvailableMemory.now, 16 << 20)
        XCTAssertLessThan(AvailableMemory.now, ProcessInfo.processInfo.physicalMemory)
    }
}

import XCTest

@testable import Hotset

final class OpeningTests: XCTestCase {
    func testHello() async throws {
        let url = URL(fileURLWithPath: ProcessInfo.processInfo.environment["HOTSET_TEST_BUNDLE"]!)
        let seen = Guarded<[Double]>([])
        let engine = try await HotsetEngine.open(url, options: EngineOptions(device: "cpu", budget: 30_000_000)) { f in seen { $0.append(f) } }
        print(try engine.info, try engine.memoryReport(), seen { $0 })
        let s = try engine.session()
        let a = try s.complete("Once upon a time", options: GenerateOptions(maxTokens: 30, seed: 7))
        print(try await a.text(), a.statistics, a.stopReason as Any)
        do { print(try await s.send("Hello", options: GenerateOptions(maxTokens: 10, seed: 7)).text(), try s.messages) } catch { print("SEND", error) }
    }
}

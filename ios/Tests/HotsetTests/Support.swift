// What the tests share: the demo bundle, what Rust answers, ways to wait and to measure.

import Foundation
import XCTest

@testable import Hotset

/// What `.ci/swift` hands to the tests. A missing value is a failure: without it nothing would be tested.
enum Given {
    static func value(_ name: String) throws -> String {
        try XCTUnwrap(ProcessInfo.processInfo.environment[name], "\(name) is not set; run the tests by .ci/swift")
    }

    /// The demo bundle.
    static var bundle: URL {
        get throws { URL(fileURLWithPath: try value("HOTSET_TEST_BUNDLE")) }
    }

    /// A prompt and the length of its answer, which Rust gave for a seed.
    static var answer: (prompt: String, options: GenerateOptions, text: String) {
        get throws {
            let seed = try XCTUnwrap(UInt64(value("HOTSET_TEST_SEED")))
            let length = try XCTUnwrap(UInt32(value("HOTSET_TEST_MAX")))
            let text = try String(contentsOfFile: value("HOTSET_TEST_ANSWER"), encoding: .utf8)
            return (try value("HOTSET_TEST_PROMPT"), GenerateOptions(maxTokens: length, seed: seed), text)
        }
    }
}

extension HotsetEngine {
    /// The demo on the CPU, whose answers are the same everywhere.
    static func demo(budget: UInt64? = nil) async throws -> HotsetEngine {
        try await open(Given.bundle, options: EngineOptions(device: "cpu", budget: budget))
    }
}

extension GenerateOptions {
    /// An answer that nobody waits the end of.
    static let endless = GenerateOptions(maxTokens: 3000, seed: 1)
}

/// A long text, which takes a while to be read.
let longPrompt = String(repeating: "Once upon a time there was a king who had three daughters. ", count: 230)

/// A folder that is removed after the test.
func temporaryFolder(_ test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try FileManager.default.removeItem(at: folder) }
    return folder
}

/// Waits until something is so, at most ten seconds.
func eventually(_ what: String, file: StaticString = #filePath, line: UInt = #line, _ holds: () throws -> Bool) async throws {
    for _ in 0..<2000 {
        if try holds() { return }
        try await Task.sleep(nanoseconds: 5_000_000)
    }
    XCTFail("not within ten seconds: \(what)", file: file, line: line)
}

/// The kind of a failure of Hotset, by its case's name.
func kind(file: StaticString = #filePath, line: UInt = #line, _ body: () async throws -> Void) async -> String? {
    do {
        try await body()
        XCTFail("nothing failed", file: file, line: line)
    } catch let error as HotsetError {
        XCTAssertFalse(error.message.isEmpty, "an error without a message", file: file, line: line)
        XCTAssertEqual(error.localizedDescription, error.message, file: file, line: line)
        return Mirror(reflecting: error).children.first?.label
    } catch {
        XCTFail("not an error of Hotset: \(error)", file: file, line: line)
    }
    return nil
}

/// Bytes of this process in memory.
func residentBytes() throws -> Int {
    let pages = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")
    return try XCTUnwrap(Int(pages[1])) * 4096
}

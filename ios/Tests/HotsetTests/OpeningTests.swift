// Opening bundles: good ones, broken ones, and being stopped.

import XCTest

@testable import Hotset

final class OpeningTests: XCTestCase {
    func testTheDemoOpensAndSaysWhatItIs() async throws {
        let info = try await HotsetEngine.demo().info
        XCTAssertEqual(info.name, "molm-demo")
        let size = try Given.bundle.resourceValues(forKeys: [.fileSizeKey]).fileSize
        XCTAssertEqual(info.fileBytes, size.map(UInt64.init))
        XCTAssertFalse(info.gpu)
    }

    func testProgressGrowsToOne() async throws {
        let seen = Guarded<[Double]>([])
        _ = try await HotsetEngine.open(Given.bundle, options: EngineOptions(device: "cpu")) { fraction in seen { $0.append(fraction) } }
        let fractions = seen { $0 }
        XCTAssertEqual(fractions, fractions.sorted())
        XCTAssertEqual(fractions.last, 1)
    }

    func testAProgressListenerThatThrowsStopsTheOpening() async throws {
        struct Enough: Error {}
        let failure = await kind { _ = try await HotsetEngine.open(Given.bundle) { _ in throw Enough() } }
        XCTAssertEqual(failure, "Stopped")
        _ = try await HotsetEngine.demo()
    }

    func testACancelledTaskStopsTheOpening() async throws {
        let bundle = try Given.bundle
        let begun = XCTestExpectation(description: "progress is told")
        let cancelled = DispatchSemaphore(value: 0)
        let opening = Task {
            try await HotsetEngine.open(bundle) { _ in
                begun.fulfill()
                cancelled.wait()
                cancelled.signal()
            }
        }
        await fulfillment(of: [begun], timeout: 10)
        opening.cancel()
        cancelled.signal()
        do {
            _ = try await opening.value
            XCTFail("it was opened")
        } catch is CancellationError {}
    }

    func testWhatIsNoBundleIsATypedError() async throws {
        let folder = try temporaryFolder(self)
        let whole = try Data(contentsOf: Given.bundle)
        func file(_ name: String, _ content: Data) throws -> URL {
            let url = folder.appendingPathComponent(name)
            try content.write(to: url)
            return url
        }
        let cases: [(URL, String)] = [
            (folder.appendingPathComponent("missing.hotset"), "File"),
            (folder, "File"),
            (try file("empty.hotset", Data()), "Broken"),
            (try file("head.hotset", whole.prefix(100)), "Broken"),
            (try file("half.hotset", whole.prefix(whole.count / 2)), "Broken"),
            (try file("text.hotset", Data("Once upon a time there was no bundle.".utf8)), "Broken"),
            (URL(string: "https://example.com/model.hotset")!, "Invalid"),
        ]
        for (url, expected) in cases {
            let failure = await kind { _ = try await HotsetEngine.open(url) }
            XCTAssertEqual(failure, expected, url.lastPathComponent)
        }
    }

    func testADeviceThatIsNotThereIsATypedError() async throws {
        let failure = await kind { _ = try await HotsetEngine.open(Given.bundle, options: EngineOptions(device: "no such device")) }
        XCTAssertEqual(failure, "Device")
    }

    func testTwoEnginesAnswerAtOnce() async throws {
        let (prompt, options, expected) = try Given.answer
        async let first = HotsetEngine.demo().session().complete(prompt, options: options).text()
        async let second = HotsetEngine.demo().session().complete(prompt, options: options).text()
        let texts = try await [first, second]
        XCTAssertEqual(texts, [expected, expected])
    }
}

// Downloads: whole, in parts, of files that change, and without room; against a server that is a class.

import Foundation
import XCTest

@testable import SampleLogic

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

final class DownloadTests: XCTestCase {
    private let address = URL(string: "https://example.com/model.hotset")!
    private let content = Data((0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 / 251) })
    private var destination: URL!

    override func setUpWithError() throws {
        destination = try temporaryFolder(self).appendingPathComponent("model.hotset")
        Server.state = Server.State(content: content, version: "\"one\"")
    }

    func testAFileArrives() async throws {
        try await download()
        XCTAssertEqual(try Data(contentsOf: destination), content)
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: destination.deletingLastPathComponent().path), ["model.hotset"])
    }

    func testADownloadGoesOnWhereItStopped() async throws {
        Server.state.breaksAfter = 100_000
        await fails { try await self.download() }
        XCTAssertFalse(FileManager.default.fileExists(atPath: destination.path))
        Server.state.breaksAfter = nil
        try await download()
        XCTAssertEqual(try Data(contentsOf: destination), content)
        XCTAssertEqual(Server.state.ranges, [nil, "bytes=100000-"])
    }

    func testAFileThatChangedIsTakenFromItsStart() async throws {
        Server.state.breaksAfter = 100_000
        await fails { try await self.download() }
        let other = Data(content.reversed())
        Server.state.content = other
        Server.state.version = "\"two\""
        Server.state.breaksAfter = nil
        try await download()
        XCTAssertEqual(try Data(contentsOf: destination), other)
    }

    func testAServerWithoutRangesStartsAgain() async throws {
        Server.state.ranged = false
        Server.state.breaksAfter = 100_000
        await fails { try await self.download() }
        Server.state.breaksAfter = nil
        try await download()
        XCTAssertEqual(try Data(contentsOf: destination), content)
    }

    func testAnEarlyEndIsAnErrorAndNoFile() async throws {
        Server.state.endsAfter = 5000
        await fails { try await self.download() }
        XCTAssertFalse(FileManager.default.fileExists(atPath: destination.path))
    }

    func testARefusalIsAnErrorAndNoFile() async throws {
        Server.state.status = 404
        do {
            try await download()
            XCTFail("it arrived")
        } catch {
            XCTAssertEqual(error as? Resumption.Failure, .refused(status: 404))
        }
        XCTAssertFalse(FileManager.default.fileExists(atPath: destination.path))
    }

    func testNothingIsWrittenWithoutRoom() async throws {
        do {
            try await download(free: 300_000)
            XCTFail("it arrived")
        } catch {
            XCTAssertEqual(error as? Resumption.Failure, .noRoom(needed: 300_000 + 64 << 20, free: 300_000))
        }
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: destination.deletingLastPathComponent().path), [])
    }

    func testCancellingTheTaskStopsTheDownloadAndKeepsWhatIsThere() async throws {
        Server.state.hangsAfter = 100_000
        let begun = XCTestExpectation(description: "something arrives")
        begun.assertForOverFulfill = false
        let (address, destination) = (address, destination!)
        let task = Task {
            try await Download.run(address, to: destination, configuration: Server.configuration) { if $0 > 0.3 { begun.fulfill() } }
        }
        await fulfillment(of: [begun], timeout: 10)
        task.cancel()
        do {
            try await task.value
            XCTFail("it arrived")
        } catch is CancellationError {}
        Server.state.hangsAfter = nil
        try await download()
        XCTAssertEqual(try Data(contentsOf: destination), content)
        XCTAssertEqual(Server.state.ranges.last, "bytes=100000-")
    }

    func testReplies() throws {
        let begun = Resumption(offset: 5, version: "\"a\"")
        func read(_ status: Int, _ headers: [String: String]) throws -> Resumption.Reply { try begun.read(status: status) { headers[$0] } }
        XCTAssertEqual(begun.headers, ["Range": "bytes=5-", "If-Range": "\"a\""])
        XCTAssertEqual(Resumption(offset: 5).headers, [:])
        XCTAssertEqual(
            try read(206, ["Content-Range": "bytes 5-9/10", "ETag": "\"a\""]), Resumption.Reply(offset: 5, total: 10, version: "\"a\""))
        XCTAssertEqual(
            try read(200, ["Content-Length": "10", "ETag": "W/\"a\"", "Last-Modified": "then"]),
            Resumption.Reply(offset: 0, total: 10, version: "then"))
        XCTAssertThrowsError(try read(206, ["Content-Range": "bytes 4-9/10"]))
        XCTAssertThrowsError(try read(206, [:]))
        XCTAssertThrowsError(try read(416, [:]))
    }

    private func download(free: Int64 = 1 << 40) async throws {
        try await Download.run(address, to: destination, configuration: Server.configuration, free: { _ in free }) { _ in }
    }

    private func fails(file: StaticString = #filePath, line: UInt = #line, _ body: () async throws -> Void) async {
        do {
            try await body()
            XCTFail("it arrived", file: file, line: line)
        } catch {}
    }
}

/// A server of one file.
private final class Server: URLProtocol {
    struct State {
        var content: Data
        var version: String
        var status = 200
        /// Whether it can send a part.
        var ranged = true
        /// Bytes until the connection breaks.
        var breaksAfter: Int?
        /// Bytes until it says that this is all.
        var endsAfter: Int?
        /// Bytes until nothing more comes.
        var hangsAfter: Int?
        /// What was asked for.
        var ranges: [String?] = []
    }

    private static let lock = NSLock()
    nonisolated(unsafe) private static var unguarded = State(content: Data(), version: "")
    static var state: State {
        get { lock.withLock { unguarded } }
        set { lock.withLock { unguarded = newValue } }
    }

    static var configuration: URLSessionConfiguration {
        let configuration = URLSessionConfiguration.ephemeral
        configuration.protocolClasses = [Server.self]
        return configuration
    }

    override class func canInit(with request: URLRequest) -> Bool { true }
    override class func canonicalRequest(for request: URLRequest) -> URLRequest { request }
    override func stopLoading() {}

    override func startLoading() {
        let range = request.value(forHTTPHeaderField: "Range")
        Server.state.ranges.append(range)
        let state = Server.state
        var (first, status) = (0, state.status)
        var headers = ["ETag": state.version]
        if let range, state.ranged, request.value(forHTTPHeaderField: "If-Range") == state.version {
            first = Int(range.dropFirst("bytes=".count).dropLast())!
            status = 206
            headers["Content-Range"] = "bytes \(first)-\(state.content.count - 1)/\(state.content.count)"
        }
        headers["Content-Length"] = "\(state.content.count - first)"
        client?.urlProtocol(
            self, didReceive: HTTPURLResponse(url: request.url!, statusCode: status, httpVersion: "HTTP/1.1", headerFields: headers)!,
            cacheStoragePolicy: .notAllowed)
        let end = state.breaksAfter ?? state.endsAfter ?? state.hangsAfter ?? state.content.count
        for start in stride(from: first, to: end, by: 20_000) {
            client?.urlProtocol(self, didLoad: state.content[start..<min(start + 20_000, end)])
        }
        if state.breaksAfter != nil {
            client?.urlProtocol(self, didFailWithError: URLError(.networkConnectionLost))
        } else if state.hangsAfter == nil {
            client?.urlProtocolDidFinishLoading(self)
        }
    }
}

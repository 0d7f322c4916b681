// A download that goes on where an earlier attempt stopped.

import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Downloads one large file.
///
/// What has arrived is in `NAME.part`, the version it is of in `NAME.part.version`; both stay when the download fails or is cancelled, also when the
/// app is ended, and the next attempt asks for the rest. The file has its name when it is complete.
final class Download: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    // Safe to share: the session calls back on one queue, and nothing else touches what changes.
    private let destination: URL
    private let progress: @Sendable (Double) -> Void
    private let free: @Sendable (URL) -> Int64?
    private var resumption = Resumption(offset: 0)
    private var reply: Resumption.Reply?
    private var file: FileHandle?
    private var written: Int64 = 0
    private var failure: (any Error)?
    private var finished: CheckedContinuation<Void, any Error>?

    private var part: URL { destination.appendingPathExtension("part") }
    private var versionFile: URL { part.appendingPathExtension("version") }

    private init(to destination: URL, free: @escaping @Sendable (URL) -> Int64?, progress: @escaping @Sendable (Double) -> Void) {
        self.destination = destination
        self.free = free
        self.progress = progress
    }

    /// Downloads `address` to `destination`. Cancelling the task stops it.
    ///
    /// - Parameters:
    ///   - free: Bytes that are free where the file goes.
    ///   - progress: Told which part of the file is there, 0 to 1, on a thread of the session's.
    static func run(
        _ address: URL, to destination: URL, configuration: URLSessionConfiguration = .default,
        free: @escaping @Sendable (URL) -> Int64? = freeBytes, progress: @escaping @Sendable (Double) -> Void
    ) async throws {
        try await Download(to: destination, free: free, progress: progress).run(address, configuration)
    }

    private func run(_ address: URL, _ configuration: URLSessionConfiguration) async throws {
        let size = try? FileManager.default.attributesOfItem(atPath: part.path)[.size] as? NSNumber
        resumption = Resumption(offset: size?.int64Value ?? 0, version: try? String(contentsOf: versionFile, encoding: .utf8))
        var request = URLRequest(url: address)
        // Compressed on the way, a range would be one of something else.
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")
        resumption.headers.forEach { request.setValue($1, forHTTPHeaderField: $0) }

        let session = URLSession(configuration: configuration, delegate: self, delegateQueue: nil)
        defer { session.finishTasksAndInvalidate() }
        let task = session.dataTask(with: request)
        do {
            try await withTaskCancellationHandler {
                try await withCheckedThrowingContinuation { continuation in
                    finished = continuation
                    task.resume()
                }
            } onCancel: {
                task.cancel()
            }
        } catch {
            try Task.checkCancellation()
            throw error
        }
        try FileManager.default.removeItem(at: versionFile)
        if FileManager.default.fileExists(atPath: destination.path) {
            try FileManager.default.removeItem(at: destination)
        }
        try FileManager.default.moveItem(at: part, to: destination)
    }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    ) {
        do {
            guard let response = response as? HTTPURLResponse else { throw URLError(.badServerResponse) }
            try begin(try resumption.read(status: response.statusCode) { response.value(forHTTPHeaderField: $0) })
            completionHandler(.allow)
        } catch {
            failure = error
            completionHandler(.cancel)
        }
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        do {
            try file?.write(contentsOf: data)
            written += Int64(data.count)
            if let total = reply?.total, total > 0 { progress(Double(written) / Double(total)) }
        } catch {
            failure = error
            dataTask.cancel()
        }
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        try? file?.close()
        let complete = reply.map { $0.total ?? written == written } ?? false
        if let error = failure ?? error {
            finished?.resume(throwing: error)
        } else if complete {
            finished?.resume()
        } else {
            finished?.resume(throwing: Resumption.Failure.incomplete)
        }
    }

    private func begin(_ reply: Resumption.Reply) throws {
        try Resumption.checkRoom(for: reply, free: free(destination.deletingLastPathComponent()))
        if !FileManager.default.fileExists(atPath: part.path) {
            try Data().write(to: part)
        }
        let file = try FileHandle(forWritingTo: part)
        try file.truncate(atOffset: UInt64(reply.offset))
        try file.seek(toOffset: UInt64(reply.offset))
        try (reply.version ?? "").write(to: versionFile, atomically: true, encoding: .utf8)
        (self.file, self.reply, written) = (file, reply, reply.offset)
    }
}

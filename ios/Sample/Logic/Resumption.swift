// Going on with a download: what to ask the server for, and what to make of its reply.

import Foundation

/// What there is of a file already.
struct Resumption: Equatable {
    /// Bytes that are there.
    var offset: Int64
    /// The server's name for the version of the file that they are of.
    var version: String?

    /// Why a download cannot go on.
    enum Failure: LocalizedError, Equatable {
        case refused(status: Int)
        case noRoom(needed: Int64, free: Int64)
        case incomplete

        var errorDescription: String? {
            switch self {
            case .refused(let status): "The server replied with status \(status)."
            case .noRoom(let needed, let free):
                "The model needs \(Figures.bytes(needed)), and \(Figures.bytes(free)) are free."
            case .incomplete: "The server ended the download early. Try again to go on with it."
            }
        }
    }

    /// Headers of a request for the rest. Without a version nobody knows what the bytes are of, and everything is asked for.
    var headers: [String: String] {
        guard offset > 0, let version else { return [:] }
        return ["Range": "bytes=\(offset)-", "If-Range": version]
    }

    /// What the server is about to send.
    struct Reply: Equatable {
        /// Where the first byte belongs.
        var offset: Int64
        /// Bytes of the whole file, if the server knows.
        var total: Int64?
        /// Its version, if the server can tell one from another.
        var version: String?
    }

    /// What a reply means.
    func read(status: Int, header: (String) -> String?) throws -> Reply {
        // A weak tag does not promise the same bytes.
        let version = header("ETag").flatMap { $0.hasPrefix("W/") ? nil : $0 } ?? header("Last-Modified")
        switch status {
        case 200:
            return Reply(offset: 0, total: header("Content-Length").flatMap { Int64($0) }, version: version)
        case 206:
            // "bytes 5-9/10"
            let range = header("Content-Range")?.split(whereSeparator: { " -/".contains($0) }) ?? []
            guard range.count == 4, Int64(range[1]) == offset else { throw Failure.refused(status: status) }
            return Reply(offset: offset, total: Int64(range[3]), version: version)
        default:
            throw Failure.refused(status: status)
        }
    }

    /// Checks that what is still to come has room, and a little is left over.
    static func checkRoom(for reply: Reply, free: Int64?) throws {
        let margin: Int64 = 64 << 20
        guard let total = reply.total, let free else { return }
        let needed = total - reply.offset + margin
        guard needed <= free else { throw Failure.noRoom(needed: needed, free: free) }
    }
}

// Files that the person picked lie outside of the app; it must ask for them and say when it is done.

import Foundation
import HotsetBindings

extension URL {
    /// The path of a file.
    func filePath() throws -> String {
        guard isFileURL else {
            throw HotsetError.Invalid(message: "\(absoluteString) is no file; download it first")
        }
        return path
    }
}

/// The right to use a file from a document picker or a bookmark, until this is released. For other files it is nothing.
final class FileAccess: Sendable {
    private let url: URL
    private let granted: Bool

    init(_ url: URL) {
        self.url = url
        #if canImport(Darwin)
            granted = url.startAccessingSecurityScopedResource()
        #else
            granted = false
        #endif
    }

    deinit {
        #if canImport(Darwin)
            if granted { url.stopAccessingSecurityScopedResource() }
        #endif
    }
}

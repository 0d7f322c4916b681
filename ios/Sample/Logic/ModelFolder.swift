// Where models and conversations are on the device.

import Foundation

/// The app's folders.
///
/// Models that the app downloads are in Application Support. They can be downloaded again, so they do not take room in the person's backup. Models
/// that the person puts there, by Files or by a cable, are in Documents, which is what those show.
struct ModelFolder: Sendable {
    let downloads: URL
    let documents: URL
    let conversations: URL

    /// Below the folders that the system gives to this app, or, in tests, below another one.
    init(below folder: URL? = nil) throws {
        let manager = FileManager.default
        let support = try folder ?? manager.url(for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        downloads = support.appendingPathComponent("Models", isDirectory: true)
        conversations = support.appendingPathComponent("Conversations", isDirectory: true)
        documents =
            try folder?.appendingPathComponent("Documents", isDirectory: true)
            ?? manager.url(for: .documentDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        for url in [downloads, conversations, documents] {
            try manager.createDirectory(at: url, withIntermediateDirectories: true)
        }
        try Self.excludeFromBackup(downloads)
    }

    /// All bundles that are there, by name.
    func models() throws -> [URL] {
        let all = try [downloads, documents].flatMap { try FileManager.default.contentsOfDirectory(at: $0, includingPropertiesForKeys: nil) }
        return all.filter { $0.pathExtension == "hotset" }.sorted { $0.lastPathComponent < $1.lastPathComponent }
    }

    /// Where a bundle from `address` is put; `nil` when its name does not say that it is a bundle.
    func destination(of address: URL) -> URL? {
        let name = address.lastPathComponent
        guard address.scheme == "https", address.pathExtension == "hotset", !name.hasPrefix(".") else { return nil }
        return downloads.appendingPathComponent(name)
    }

    /// Where the conversation with a model is kept, by the model's fingerprint.
    func conversation(with fingerprint: String) -> URL {
        conversations.appendingPathComponent(fingerprint).appendingPathExtension("conversation")
    }

    private static func excludeFromBackup(_ url: URL) throws {
        #if canImport(Darwin)
            var url = url
            var values = URLResourceValues()
            values.isExcludedFromBackup = true
            try url.setResourceValues(values)
        #endif
    }
}

/// Bytes that the system would make room for on the volume of `url`.
func freeBytes(at url: URL) -> Int64? {
    #if canImport(Darwin)
        try? url.resourceValues(forKeys: [.volumeAvailableCapacityForImportantUsageKey]).volumeAvailableCapacityForImportantUsage
    #else
        (try? FileManager.default.attributesOfFileSystem(forPath: url.path))?[.systemFreeSize].flatMap { ($0 as? NSNumber)?.int64Value }
    #endif
}

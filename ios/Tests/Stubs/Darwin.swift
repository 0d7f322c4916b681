// What Apple's Foundation has and that of Linux has not. That there is a module of this name also lets `#if canImport(Darwin)` be checked.

import Foundation

extension URL {
    public func startAccessingSecurityScopedResource() -> Bool { false }
    public func stopAccessingSecurityScopedResource() {}
    public func bookmarkData() throws -> Data { Data() }
    public init(resolvingBookmarkData data: Data, bookmarkDataIsStale: inout Bool) throws { self.init(fileURLWithPath: "") }
}

extension URLResourceValues {
    public var volumeAvailableCapacityForImportantUsage: Int64? { nil }
}

extension URLResourceKey {
    public static let volumeAvailableCapacityForImportantUsageKey = URLResourceKey(rawValue: "")
}

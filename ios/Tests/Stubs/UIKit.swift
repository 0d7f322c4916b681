// What this package uses of UIKit, and of Apple's Dispatch, as Apple's headers declare it: to be type-checked where there is none.

import Dispatch
@_exported import Foundation

public struct UIBackgroundTaskIdentifier: RawRepresentable, Hashable, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    public static let invalid = UIBackgroundTaskIdentifier(rawValue: 0)
}

@MainActor
open class UIApplication {
    public class var shared: UIApplication { fatalError("declared only") }
    public nonisolated class var didReceiveMemoryWarningNotification: Notification.Name { .init("") }
    public nonisolated class var didEnterBackgroundNotification: Notification.Name { .init("") }
    public nonisolated class var willEnterForegroundNotification: Notification.Name { .init("") }

    public nonisolated func beginBackgroundTask(
        withName name: String?, expirationHandler: (@MainActor @Sendable () -> Void)? = nil
    ) -> UIBackgroundTaskIdentifier { .invalid }
    public nonisolated func endBackgroundTask(_ identifier: UIBackgroundTaskIdentifier) {}
}

public protocol DispatchSourceMemoryPressure: DispatchSourceProtocol {
    var data: DispatchSource.MemoryPressureEvent { get }
}

extension DispatchSource {
    public struct MemoryPressureEvent: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let normal = MemoryPressureEvent(rawValue: 1)
        public static let warning = MemoryPressureEvent(rawValue: 2)
        public static let critical = MemoryPressureEvent(rawValue: 4)

    }

    public class func makeMemoryPressureSource(
        eventMask: MemoryPressureEvent, queue: DispatchQueue? = nil
    ) -> any DispatchSourceMemoryPressure { fatalError("declared only") }
}

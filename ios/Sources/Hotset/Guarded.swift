// A value behind a lock.

import Foundation

/// A value that any thread may look at or change, one at a time. (`Mutex` of the standard library needs iOS 18.)
final class Guarded<Value>: @unchecked Sendable {
    // Safe to share: `value` is touched with the lock held only.
    private let lock = NSLock()
    private var value: Value

    init(_ value: Value) {
        self.value = value
    }

    func callAsFunction<T>(_ body: (inout Value) throws -> T) rethrows -> T {
        try lock.withLock { try body(&value) }
    }
}

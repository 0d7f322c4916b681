// What can go wrong, for a program to decide by and a person to read.

import Foundation
import HotsetBindings

/// Every failure of Hotset. Each case has a `message`: one sentence that says what to do. It is also the error's `localizedDescription`.
///
/// Opening a bundle throws `CancellationError` instead when its task is cancelled.
public typealias HotsetError = HotsetBindings.HotsetError

extension HotsetError {
    /// One sentence that says what to do.
    public var message: String {
        switch self {
        case .File(let message), .Broken(let message), .Invalid(let message), .ContextFull(let message), .Device(let message),
            .Busy(let message), .Suspended(let message), .Closed(let message), .Stopped(let message), .Internal(let message):
            message
        }
    }
}

extension HotsetError: LocalizedError {
    public var errorDescription: String? { message }
}

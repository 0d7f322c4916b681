// The app's coming and going, and its memory warnings, as UIKit tells them.

#if canImport(UIKit) && !os(watchOS)
    import UIKit

    /// Something that happened to the app.
    enum AppEvent: Sendable {
        case memoryWarning
        /// It is in the background now, and has as much time as the ticket gives.
        case background(Ticket)
        case foreground

        func handle(by memory: HotsetMemory?) async {
            switch self {
            case .memoryWarning:
                memory?.pressureChanged(to: .warning)
            case .background(let ticket):
                await memory?.enterBackground()
                await ticket.giveBack()
            case .foreground:
                await memory?.enterForeground()
            }
        }

        /// Calls `then` whenever something happens, until the observers are removed.
        static func observers(_ then: @escaping @Sendable (AppEvent) -> Void) -> [any NSObjectProtocol] {
            func on(_ name: Notification.Name, _ event: @escaping @MainActor @Sendable () -> AppEvent) -> any NSObjectProtocol {
                // UIKit posts these on the main thread, and without a queue this runs before the system goes on: the ticket must be taken there.
                NotificationCenter.default.addObserver(forName: name, object: nil, queue: nil) { _ in
                    then(MainActor.assumeIsolated { event() })
                }
            }
            return [
                on(UIApplication.didReceiveMemoryWarningNotification) { .memoryWarning },
                on(UIApplication.didEnterBackgroundNotification) { .background(Ticket()) },
                on(UIApplication.willEnterForegroundNotification) { .foreground },
            ]
        }
    }

    /// Time in the background, until it is given back or the system wants it back.
    @MainActor
    final class Ticket {
        private var identifier = UIBackgroundTaskIdentifier.invalid

        init() {
            identifier = UIApplication.shared.beginBackgroundTask(withName: "Suspending the model") { [weak self] in
                // Not giving it back would end the app.
                MainActor.assumeIsolated { self?.giveBack() }
            }
        }

        func giveBack() {
            guard identifier != .invalid else { return }
            UIApplication.shared.endBackgroundTask(identifier)
            identifier = .invalid
        }
    }
#endif

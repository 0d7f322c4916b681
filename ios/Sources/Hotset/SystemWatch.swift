// What Apple's systems say about memory, and about the app's coming and going, handed on to `HotsetMemory`.

#if canImport(Darwin)
    import Dispatch

    #if canImport(UIKit) && !os(watchOS)
        import UIKit
    #endif

    /// Listens until it is released.
    final class SystemWatch: @unchecked Sendable {
        // Safe to share: nothing changes after `init`.
        private let pressure: [any DispatchSourceMemoryPressure]

        #if canImport(UIKit) && !os(watchOS)
            private let events: AsyncStream<AppEvent>.Continuation
            private let observers: [any NSObjectProtocol]
        #endif

        init(_ memory: HotsetMemory) {
            // A source for each event: a handler that asks its own source what happened would have to hold it.
            let levels: [(DispatchSource.MemoryPressureEvent, MemoryPressure)] = [(.normal, .normal), (.warning, .warning), (.critical, .critical)]
            pressure = levels.map { mask, event in
                let source = DispatchSource.makeMemoryPressureSource(eventMask: mask, queue: .global())
                source.setEventHandler { [weak memory] in memory?.pressureChanged(to: event) }
                source.activate()
                return source
            }

            #if canImport(UIKit) && !os(watchOS)
                let (stream, events) = AsyncStream.makeStream(of: AppEvent.self)
                self.events = events
                observers = AppEvent.observers { events.yield($0) }
                // One after the other: an app can come back while it is still being suspended.
                Task { [weak memory] in
                    for await event in stream {
                        await event.handle(by: memory)
                    }
                }
            #endif
        }

        deinit {
            pressure.forEach { $0.cancel() }
            #if canImport(UIKit) && !os(watchOS)
                observers.forEach(NotificationCenter.default.removeObserver)
                events.finish()
            #endif
        }
    }
#endif

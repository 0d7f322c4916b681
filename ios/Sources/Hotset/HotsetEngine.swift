// The engine: a bundle made ready on a device.

import Foundation
import HotsetBindings

/// A model made ready on a device: open it once, start any number of sessions.
///
/// ```swift
/// let engine = try await HotsetEngine.open(url, options: EngineOptions(budget: BudgetPolicy().budget(free: AvailableMemory.now)))
/// let session = try engine.session()
/// ```
///
/// Everything can be called from any thread. What may take longer than a frame is `async` and runs on threads of Hotset's.
///
/// Sessions keep what they need of the engine alive. ``close()`` ends everything at once; without it, memory is given back when the engine and its
/// sessions are not referenced any more.
public final class HotsetEngine: Sendable {
    private let engine: Engine
    /// Held while the engine may read its file.
    private let access: Guarded<FileAccess?>

    private init(_ engine: Engine, _ access: FileAccess) {
        self.engine = engine
        self.access = Guarded(access)
    }

    /// Opens the bundle at `url`.
    ///
    /// A file from a document picker or a security-scoped bookmark can be given as it is; the right to use it is held until ``close()``.
    /// Cancelling the task stops the opening.
    ///
    /// - Parameters:
    ///   - url: A `.hotset` file.
    ///   - options: Device, memory budget and so on. On a phone, give a budget: see ``BudgetPolicy``.
    ///   - progress: Told which part of the work is done, 0 to 1, on a thread of Hotset's. An error that it throws stops the opening, which then
    ///     throws `HotsetError.Stopped`.
    /// - Throws: `HotsetError.File` or `.Broken` when the file is not a usable bundle, `.Device` when there is no such device, `.Invalid` when the
    ///   budget is too small, `CancellationError` when the task was cancelled.
    public static func open(
        _ url: URL,
        options: EngineOptions = EngineOptions(),
        progress: (@Sendable (Double) throws -> Void)? = nil
    ) async throws -> HotsetEngine {
        try Task.checkCancellation()
        let path = try url.filePath()
        let access = FileAccess(url)
        let listener = Listener(progress)
        return try await withTaskCancellationHandler {
            do {
                let engine = try await Engine.open(path: path, options: options, listener: listener)
                return HotsetEngine(engine, access)
            } catch HotsetError.Stopped where Task.isCancelled {
                throw CancellationError()
            }
        } onCancel: {
            listener.stop()
        }
    }

    /// What it is made of: the model's name, the size of its file, the device. Throws after ``close()``.
    public var info: ModelInfo {
        get throws { try engine.info() }
    }

    /// Starts a conversation.
    ///
    /// - Throws: `HotsetError.Invalid` when an option is out of range, `.Device` when there is no room for its caches, `.Suspended` while the
    ///   engine is suspended, `.Closed` after ``close()``.
    public func session(_ options: SessionOptions = SessionOptions()) throws -> HotsetSession {
        HotsetSession(try engine.session(options: options))
    }

    /// Goes on with a conversation that ``HotsetSession/save(to:)`` wrote, with the options it had.
    ///
    /// - Throws: `HotsetError.File` or `.Broken` when the file is missing, damaged or of another model, `.Device` when there is no room.
    public func restore(from url: URL) async throws -> HotsetSession {
        HotsetSession(try await engine.restore(path: try url.filePath()))
    }

    /// Changes the bytes that the model may take, also in the middle of an answer: what no longer fits is given back before the next step.
    /// Answers do not change, only their speed does.
    ///
    /// - Throws: `HotsetError.Invalid` when the engine was opened without a budget, or when this one is too small; the message names the smallest.
    public func setBudget(_ bytes: UInt64) throws {
        try engine.setBudget(bytes: bytes)
    }

    /// Gives back everything it holds on the device, conversations included, and lets answers wait until ``resume()``. What the conversations hold
    /// is kept in the system's memory. iOS takes the GPU from apps in the background: ``HotsetMemory`` calls this in time.
    ///
    /// - Throws: `HotsetError.Closed` after ``close()``.
    public func suspend() async throws {
        try await engine.suspend()
    }

    /// Makes a suspended engine ready again; answers go on as if nothing had happened.
    ///
    /// - Throws: `HotsetError.Device` when the device has gone or has no room: the engine stays suspended, to be resumed later. `HotsetError.Closed`
    ///   after ``close()``.
    public func resume() async throws {
        try await engine.resume()
    }

    /// What it takes of the device's memory, and how often experts were at hand.
    ///
    /// - Throws: `HotsetError.Closed` after ``close()``.
    public func memoryReport() throws -> MemoryReport {
        try engine.memoryReport()
    }

    /// Lets sessions that start from now on do with the experts that a profile names for a kind of text: faster and smaller, worse at everything
    /// else.
    ///
    /// - Parameters:
    ///   - json: The text of the file that `hotset profile` writes.
    ///   - options: How much to keep, and for which kinds of text.
    /// - Throws: When it is no profile of this bundle, has no such text, or too few experts would be left.
    public func useProfile(_ json: String, options: ProfileOptions) throws {
        try engine.useProfile(json: json, options: options)
    }

    /// Lets sessions that start from now on use all experts again.
    public func clearProfile() {
        engine.clearProfile()
    }

    /// Writes what was learned about which experts are used, for `EngineOptions.heat` of the next start. Without a budget there is nothing to learn
    /// and nothing is written.
    ///
    /// - Throws: `HotsetError.File` when it cannot be written.
    public func saveHeat(to url: URL) throws {
        try engine.saveHeat(path: try url.filePath())
    }

    /// Ends everything now: answers under way are cancelled, all sessions are closed and all memory is given back within a token's time. Afterwards
    /// everything throws `HotsetError.Closed`. Can be called at any time, from any thread, more than once.
    public func close() {
        engine.shutdown()
        access { $0 = nil }
    }
}

/// Hands progress on, and stops the opening when asked.
private final class Listener: LoadListener {
    private let progress: (@Sendable (Double) throws -> Void)?
    private let stopped = Guarded(false)

    init(_ progress: (@Sendable (Double) throws -> Void)?) {
        self.progress = progress
    }

    func stop() {
        stopped { $0 = true }
    }

    func onProgress(fraction: Double) throws {
        try progress?(fraction)
        guard !stopped({ $0 }) else { throw ListenerError.Stopped }
    }
}

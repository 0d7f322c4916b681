// The models on the device, and the one that is open.

import Combine
import Foundation
import Hotset

/// The models on the device, and the one that is open.
@MainActor
final class Library: ObservableObject {
    @Published private(set) var models: [URL] = []
    /// What is being done, and how much of it is done.
    @Published private(set) var work: Work?
    @Published private(set) var chat: Chat?
    @Published var problem: String?

    struct Work {
        var title: String
        var fraction = 0.0
    }

    private var task: Task<Void, Never>?
    private let picked = PickedModel()
    private let folder: ModelFolder?

    init() {
        folder = try? ModelFolder()
        if folder == nil { problem = "The app has no folder to keep models in." }
        refresh()
    }

    /// Looks again: files come and go by Files, too.
    func refresh() {
        models = ((try? folder?.models()) ?? []) + [picked.url].compactMap { $0 }
    }

    /// Remembers a file that the person picked, and opens it where it is.
    func pick(_ url: URL) {
        picked.remember(url)
        refresh()
        open(url)
    }

    func open(_ url: URL) {
        guard let folder else { return }
        start("Opening \(url.lastPathComponent)") { report in
            // What this app may take is known now. Everything else is read from the file when a token needs it.
            let budget = BudgetPolicy().budget(free: AvailableMemory.now)
            let engine = try await HotsetEngine.open(url, options: EngineOptions(budget: budget), progress: report)
            self.chat = try await Chat(engine, in: folder)
        }
    }

    func download(_ text: String) {
        guard let folder, let address = URL(string: text.trimmingCharacters(in: .whitespaces)), let file = folder.destination(of: address) else {
            problem = "Enter an https address that ends in .hotset."
            return
        }
        start("Downloading \(file.lastPathComponent)") { report in
            try await Download.run(address, to: file, progress: report)
            self.refresh()
        }
    }

    /// Stops what is being done. A download goes on from there when it is started again.
    func cancel() {
        task?.cancel()
    }

    /// Closes the model.
    func close() {
        chat?.close()
        chat = nil
        refresh()
    }

    private func start(_ title: String, _ body: @escaping @MainActor (@escaping @Sendable (Double) -> Void) async throws -> Void) {
        guard work == nil else { return }
        work = Work(title: title)
        task = Task {
            do {
                try await body { [weak self] fraction in
                    Task { @MainActor [weak self] in self?.work?.fraction = fraction }
                }
            } catch is CancellationError {
            } catch {
                problem = error.localizedDescription
            }
            work = nil
        }
    }
}

// A conversation with the model that is open.

import Combine
import Foundation
import Hotset

/// A conversation with the model that is open: what was said, what is being said, and how the engine fares.
@MainActor
final class Chat: ObservableObject {
    /// All that was said, with the answer under way as the last message.
    @Published private(set) var messages: [Message] = []
    @Published private(set) var answering = false
    @Published private(set) var statistics: Statistics?
    @Published private(set) var memory: MemoryReport?
    @Published var problem: String?

    let info: ModelInfo
    private let engine: HotsetEngine
    private var keeper: HotsetMemory?
    private var session: HotsetSession
    private var answer: Answer?
    private let file: URL

    /// Goes on with the conversation that was kept for this model, or begins one.
    init(_ engine: HotsetEngine, in folder: ModelFolder) async throws {
        self.engine = engine
        info = try engine.info
        file = folder.conversation(with: info.fingerprint)
        if FileManager.default.fileExists(atPath: file.path), let kept = try? await engine.restore(from: file) {
            session = kept
        } else {
            session = try engine.session(Chat.options)
        }
        messages = try session.messages
        memory = try engine.memoryReport()
        // From here on: memory warnings shrink the budget, and in the background the engine is suspended.
        keeper = HotsetMemory(engine) { [weak self] error in
            Task { @MainActor [weak self] in self?.problem = error.localizedDescription }
        }
    }

    /// Long conversations forget their beginning rather than end.
    private static let options = SessionOptions(slide: true)

    func send(_ text: String) {
        guard !answering else { return }
        answering = true
        messages += [Message(role: .user, text: text), Message(role: .assistant, text: "")]
        Task {
            do {
                let answer = try session.send(text)
                self.answer = answer
                for try await token in answer {
                    messages[messages.count - 1].text += token.text
                    statistics = answer.statistics
                    memory = try? engine.memoryReport()
                }
            } catch {
                problem = error.localizedDescription
            }
            answer = nil
            await rest()
        }
    }

    /// Ends the answer here; what was said of it stays.
    func stop() {
        answer?.cancel()
    }

    /// Forgets all that was said.
    func startAgain() {
        do {
            try session.reset()
            try? FileManager.default.removeItem(at: file)
            messages = try session.messages
            statistics = nil
        } catch {
            problem = error.localizedDescription
        }
    }

    func close() {
        keeper = nil
        engine.close()
    }

    /// After an answer: what was said is kept, because the system may end an app in the background at any time.
    private func rest() async {
        do {
            messages = try session.messages
            try await session.save(to: file)
        } catch HotsetError.Closed {
            // The model was closed meanwhile.
        } catch {
            problem = error.localizedDescription
        }
        answering = false
    }
}

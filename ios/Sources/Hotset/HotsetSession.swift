// The session: one conversation.

import Foundation
import HotsetBindings

/// One conversation with the model. It answers one message at a time; ``HotsetEngine/session(_:)`` starts it.
///
/// ```swift
/// let session = try engine.session()
/// for try await token in try session.send("Which mushrooms grow in spring?") {
///     print(token.text, terminator: "")
/// }
/// ```
///
/// Everything can be called from any thread and returns at once; the work is done on threads of Hotset's. The session keeps order by itself and
/// refuses what cannot be done while it answers, with `HotsetError.Busy`. So it is a class and no actor, and a button can call it directly.
/// When the last reference goes, its memory is given back.
public final class HotsetSession: Sendable {
    private let session: Session

    init(_ session: Session) {
        self.session = session
    }

    /// Says `text` to the model, which answers.
    ///
    /// A message that gets no answer at all, for an error or a cancellation, is taken back. An answer that is cancelled half-way stays part of the
    /// conversation as it is.
    ///
    /// - Returns: The answer, token by token. What goes wrong later comes from there.
    /// - Throws: `HotsetError.Busy` while the session answers, `HotsetError.Closed` after ``close()``.
    public func send(_ text: String, options: GenerateOptions = GenerateOptions()) throws -> Answer {
        Answer(try session.send(text: text, options: options))
    }

    /// Lets the model go on after `prompt`, which is appended to the conversation as it is, without a chat template: special tokens spelled in it
    /// count. An empty prompt goes on with what is there.
    ///
    /// - Returns: What the model thinks comes next, token by token.
    /// - Throws: As ``send(_:options:)``.
    public func complete(_ prompt: String, options: GenerateOptions = GenerateOptions()) throws -> Answer {
        Answer(try session.complete(prompt: prompt, options: options))
    }

    /// All messages so far. Throws while the session answers, and after ``close()``.
    public var messages: [Message] {
        get throws { try session.messages() }
    }

    /// Tokens of the conversation so far. Throws while the session answers, and after ``close()``.
    public var tokenCount: Int {
        get throws { Int(try session.tokenCount()) }
    }

    /// Tells the model how to behave, from the next answer on; empty text tells it nothing.
    ///
    /// - Throws: `HotsetError.Busy` while the session answers, `HotsetError.Closed` after ``close()``.
    public func setSystem(_ text: String) throws {
        try session.setSystem(text: text)
    }

    /// Forgets all messages but the system's.
    ///
    /// - Throws: `HotsetError.Busy` while the session answers, `HotsetError.Closed` after ``close()``.
    public func reset() throws {
        try session.reset()
    }

    /// Writes the conversation to a file, with everything it takes to go on at once: ``HotsetEngine/restore(from:)`` reads it.
    ///
    /// The file holds what was said, in the clear. What was at `url` is replaced when all is written, and untouched if that fails.
    ///
    /// - Throws: `HotsetError.Busy` while the session answers, `HotsetError.Closed` after ``close()``, `HotsetError.File` when it cannot be
    ///   written.
    public func save(to url: URL) async throws {
        try await session.save(path: try url.filePath())
    }

    /// Ends the conversation now: an answer under way is cancelled, and all memory is given back within a token's time. Afterwards everything
    /// throws `HotsetError.Closed`. Can be called at any time, from any thread, more than once.
    public func close() {
        session.shutdown()
    }
}

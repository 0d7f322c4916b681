// An answer under way, pulled token by token.

import HotsetBindings

/// An answer under way: a sequence of tokens, as soon as the model has them.
///
/// ```swift
/// for try await token in try session.send("Tell me a story.") {
///     print(token.text, terminator: "")
/// }
/// ```
///
/// Tokens are pulled. The model runs at most a few tokens ahead of whoever takes them and then waits, so a reader that is slow, or gone, holds up
/// the model and not memory. That is also why this is a sequence of its own: `AsyncThrowingStream` either buffers what is pushed into it, or, when
/// it pulls, cannot tell anybody that its reader has gone.
///
/// The model stops within one token's time when
/// - the loop is left, by `break` or an error,
/// - the task that iterates is cancelled: the sequence ends there, without an error,
/// - ``cancel()`` is called, from wherever,
/// - the answer is not referenced any more,
/// - the session or the engine is closed.
///
/// Whoever sees the end of the sequence can ask the session again at once, whatever ended it. Who leaves earlier waits for ``ended()`` first.
///
/// An answer can be iterated once: who comes second finds it at its end.
public final class Answer: AsyncSequence, Sendable {
    public typealias Element = Token

    private let stream: TokenStream

    init(_ stream: TokenStream) {
        self.stream = stream
    }

    /// Ends the answer here. Can be called at any time, from any thread, more than once.
    public func cancel() {
        stream.cancel()
    }

    /// Waits until the model works on this answer no more, so that the session can be asked again: for after ``cancel()``, or after leaving the loop.
    /// An answer that is neither cancelled nor read to its end does not end.
    public func ended() async {
        await stream.ended()
    }

    /// How much was done so far, and how fast.
    public var statistics: Statistics {
        stream.statistics()
    }

    /// Why the answer ended; `nil` before it has.
    public var stopReason: StopReason? {
        stream.stopReason()
    }

    /// The whole text of what is still to come.
    ///
    /// - Throws: What went wrong while answering. A cancelled task gets the text up to there.
    public func text() async throws -> String {
        try await reduce(into: "") { $0 += $1.text }
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(reader: Reader(stream))
    }

    /// Takes tokens from an answer.
    public struct Iterator: AsyncIteratorProtocol, Sendable {
        fileprivate let reader: Reader

        /// The next token as soon as it is there; `nil` at the end.
        ///
        /// - Throws: What went wrong while answering; the answer is at its end then.
        public mutating func next() async throws -> Token? {
            try await reader.next()
        }
    }

    /// Whoever iterates. When it goes, so does the wish for an answer.
    fileprivate final class Reader: Sendable {
        let stream: TokenStream

        init(_ stream: TokenStream) {
            self.stream = stream
        }

        deinit {
            stream.cancel()
        }

        func next() async throws -> Token? {
            // A task's cancellation does not reach into Rust by itself.
            try await withTaskCancellationHandler {
                // Tokens that were there already are of no use to a task that should end.
                if let token = try await stream.next(), !Task.isCancelled { return token }
                await stream.ended()
                return nil
            } onCancel: {
                stream.cancel()
            }
        }
    }
}

// The session: one conversation, whose answers are flows.
package dev.hotset

import dev.hotset.ffi.Session
import dev.hotset.ffi.TokenStream
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.withContext
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.time.Duration.Companion.milliseconds

/**
 * One conversation. It gives one answer at a time; while it does, everything else but [close] and [statistics] fails with [HotsetException.Busy].
 *
 * An answer is a cold flow: the model begins when the flow is collected and stops, within one token's time, when collecting ends for any reason: the
 * coroutine is cancelled (also while a long message is still being read), the collector throws, or it has seen enough (`take`, `first`). When
 * `collect` is back, the model has stopped and the session can answer again. The model is never more than a few tokens ahead of a slow collector.
 */
public class HotsetSession internal constructor(private val session: Session) : AutoCloseable {
    private val closed = AtomicBoolean()
    private val latest = MutableStateFlow(Statistics())

    /** How the answer under way fares, or how the last one did. */
    public val statistics: StateFlow<Statistics> = latest.asStateFlow()

    /** All messages so far. */
    public val messages: List<Message>
        get() = native { session.messages() }.map { it.toHotset() }

    /** Tokens of the conversation so far. */
    public val tokenCount: Long
        get() = native { session.tokenCount() }.toLong()

    /**
     * Says [text] and streams the model's answer. A message that gets no answer at all, for an error or a cancellation, is taken back; an answer that
     * is cancelled half-way stays as it is.
     */
    public fun send(text: String, options: GenerateOptions = GenerateOptions()): Flow<Token> =
        answer { session.send(text, options.toNative()) }

    /**
     * Streams what the model thinks comes after [prompt], which is appended to the conversation as it is, without a chat template: special tokens
     * spelled in it count. An empty prompt goes on with what is there.
     */
    public fun complete(prompt: String, options: GenerateOptions = GenerateOptions()): Flow<Token> =
        answer { session.complete(prompt, options.toNative()) }

    /** Tells the model how to behave, from the next answer on; empty text tells it nothing. */
    public fun setSystem(text: String): Unit = native { session.setSystem(text) }

    /** Forgets all messages but the system's. */
    public fun reset(): Unit = native { session.reset() }

    /**
     * Writes the conversation to [file], with everything it takes to go on at once: see [Hotset.restore]. The file holds what was said, in the clear.
     * When it cannot be written, what was there is untouched.
     */
    public suspend fun save(file: File): Unit = native { session.save(file.path) }

    /**
     * Ends the conversation now: an answer under way ends with [HotsetException.Closed], and all memory is given back within a token's time. A second
     * call does nothing.
     */
    override fun close() {
        if (!closed.compareAndSet(false, true)) return
        // Destroying the handle alone would not reach an answer under way, which holds on to the session.
        native { session.shutdown() }
        session.close()
    }

    private fun answer(start: () -> TokenStream): Flow<Token> = flow {
        val stream = native { start() }
        try {
            while (true) {
                // Outside of what is emitted: the collector's exceptions are its own.
                val token = native { stream.next() } ?: break
                latest.value = stream.report()
                emit(Token(token.id.toInt(), token.text))
            }
            // Nobody cancelled here, so the session was closed: a text that just ends would pass for a whole answer.
            if (stream.report().stop == StopReason.CANCELLED) throw HotsetException.Closed("the session was closed while it answered")
        } finally {
            // Cancelling the coroutine dropped `next` and nothing else: without this the model would run on, filling the stream.
            stream.cancel()
            withContext(NonCancellable) { stream.awaitEnd() }
            latest.value = stream.report()
            stream.close()
        }
    }
}

/** Waits until the native thread has brought the conversation back, which takes it up to a token's time after a cancellation. */
private suspend fun TokenStream.awaitEnd() {
    while (stopReason() == null) delay(1.milliseconds)
}

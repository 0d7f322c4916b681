// What an app can learn.
package dev.hotset

import kotlin.time.Duration

/** A generated token: its [id], and the [text] that is decided with it, in whole characters; empty while more tokens are needed to decide. */
public data class Token(val id: Int, val text: String)

/** Who says something. */
public enum class Role {
    /** What tells the model how to behave. */
    SYSTEM,

    /** The person. */
    USER,

    /** The model. */
    ASSISTANT,
}

/** Part of a conversation. */
public data class Message(val role: Role, val text: String)

/** Why an answer ended. */
public enum class StopReason {
    /** The model ended it. */
    END,

    /** A text of [GenerateOptions.stop] came. */
    STOP_TEXT,

    /** As many tokens as were asked for. */
    MAX_TOKENS,

    /** The context is full. */
    CONTEXT_FULL,

    /** It was cancelled, or its session was closed. */
    CANCELLED,

    /** Something failed; the flow has thrown what. */
    FAILED,
}

/**
 * How much was done for an answer, and how fast.
 *
 * @property promptTokens tokens that the model read first: what was new in the conversation. Known at the end.
 * @property generatedTokens tokens that it generated, delivered or not.
 * @property timeToFirstToken `null` before the first token.
 * @property tokensPerSecond after the first token; `null` before the second.
 * @property stop why it ended; `null` while it is under way.
 */
public data class Statistics(
    val promptTokens: Long = 0,
    val generatedTokens: Long = 0,
    val timeToFirstToken: Duration? = null,
    val tokensPerSecond: Double? = null,
    val stop: StopReason? = null,
)

/**
 * What an engine is made of.
 *
 * @property name the model's name.
 * @property fingerprint identifies the bundle's weights and plan.
 * @property fileBytes bytes of the file.
 * @property trainedContext tokens that the model was trained to look back at, if that is known.
 * @property chats whether it was made for conversations: it has a chat template.
 * @property device the device, as its driver or the system names it, and the path it takes.
 * @property gpu whether that is a GPU.
 */
public data class ModelInfo(
    val name: String,
    val fingerprint: String,
    val fileBytes: Long,
    val trainedContext: Int?,
    val chats: Boolean,
    val device: String,
    val gpu: Boolean,
)

/**
 * What a model takes of the device's memory, and how it fares with that. Bytes; totals since the engine was opened or resumed.
 *
 * @property budget the budget in force; `null` when the engine was opened without one.
 * @property least the smallest budget that works.
 * @property used what the model takes now. On the CPU without a budget it reads its file where it is, and the system takes back what it needs.
 * @property experts what of it holds experts.
 * @property allExperts all experts of the bundle.
 * @property hits experts that were wanted and there.
 * @property misses experts that were wanted and had to be read.
 * @property hitRate share of hits; `null` before any expert was wanted, and when all are resident.
 * @property bytesRead bytes of experts read from the file.
 * @property paused whether the engine is paused.
 */
public data class MemoryReport(
    val budget: Long?,
    val least: Long?,
    val used: Long,
    val experts: Long,
    val allExperts: Long?,
    val hits: Long,
    val misses: Long,
    val hitRate: Double?,
    val bytesRead: Long,
    val paused: Boolean,
)

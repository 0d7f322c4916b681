// The border to the generated bindings: their errors and types become this package's, so that apps never see `dev.hotset.ffi`.
package dev.hotset

import dev.hotset.ffi.InternalException
import kotlin.coroutines.cancellation.CancellationException
import kotlin.time.Duration.Companion.seconds
import dev.hotset.ffi.EngineOptions as NativeEngineOptions
import dev.hotset.ffi.GenerateOptions as NativeGenerateOptions
import dev.hotset.ffi.HotsetException as NativeException
import dev.hotset.ffi.MemoryReport as NativeMemoryReport
import dev.hotset.ffi.Message as NativeMessage
import dev.hotset.ffi.ModelInfo as NativeModelInfo
import dev.hotset.ffi.ProfileOptions as NativeProfileOptions
import dev.hotset.ffi.Role as NativeRole
import dev.hotset.ffi.SessionOptions as NativeSessionOptions
import dev.hotset.ffi.StopReason as NativeStopReason
import dev.hotset.ffi.TokenStream as NativeStream

/** Makes a native call whose failures are [HotsetException]s. */
internal inline fun <T> native(call: () -> T): T =
    try {
        call()
    } catch (e: CancellationException) {
        // It is an IllegalStateException, too, and not ours.
        throw e
    } catch (e: NativeException) {
        throw e.toHotset()
    } catch (e: InternalException) {
        throw HotsetException.Internal("${e.message}; this is a defect of hotset, please report it", e)
    } catch (e: IllegalStateException) {
        // What the bindings throw for an object whose handle is gone.
        throw HotsetException.Closed("the engine or the session was closed; open another one", e)
    }

internal fun NativeException.toHotset(): HotsetException {
    val message = message.orEmpty()
    return when (this) {
        is NativeException.File -> HotsetException.File(message, this)
        is NativeException.Broken -> HotsetException.Broken(message, this)
        is NativeException.Invalid -> HotsetException.Invalid(message, this)
        is NativeException.ContextFull -> HotsetException.ContextFull(message, this)
        is NativeException.Device -> HotsetException.Device(message, this)
        is NativeException.Busy -> HotsetException.Busy(message, this)
        is NativeException.Suspended -> HotsetException.Paused(message, this)
        is NativeException.Closed -> HotsetException.Closed(message, this)
        is NativeException.Stopped -> HotsetException.Stopped(message, this)
        is NativeException.Internal -> HotsetException.Internal(message, this)
    }
}

/** Numbers of bytes and tokens are signed here, as everywhere in Kotlin, and unsigned there. */
internal fun Long.toNative(what: String): ULong {
    require(this >= 0) { "$what is negative: $this" }
    return toULong()
}

private fun Int.toNative(what: String): UInt = toLong().toNative(what).toUInt()

internal fun HotsetOptions.toNative() =
    NativeEngineOptions(device, budget?.toNative("the budget"), threads?.toNative("the number of threads"), heat?.path)

internal fun SessionOptions.toNative() =
    NativeSessionOptions(context?.toNative("the context"), slide, system, expertsPerToken?.toNative("the number of experts"))

internal fun ProfileOptions.toNative() = NativeProfileOptions(keep, texts)

internal fun GenerateOptions.toNative() =
    NativeGenerateOptions(
        maxTokens = maxTokens.toNative("the number of tokens"),
        temperature = temperature,
        topK = topK.toNative("top-k"),
        topP = topP,
        minP = minP,
        repeatPenalty = repeatPenalty,
        // Any 64 bits are a seed.
        seed = seed?.toULong(),
        stop = stop,
    )

internal fun NativeModelInfo.toHotset() =
    ModelInfo(name, fingerprint, fileBytes.toLong(), trainedContext?.toInt(), chats, device, gpu)

internal fun NativeMemoryReport.toHotset() =
    MemoryReport(
        budget = budget?.toLong(),
        least = least?.toLong(),
        used = used.toLong(),
        experts = experts.toLong(),
        allExperts = allExperts?.toLong(),
        hits = hits.toLong(),
        misses = misses.toLong(),
        hitRate = hitRate,
        bytesRead = bytesRead.toLong(),
        paused = suspended,
    )

internal fun NativeMessage.toHotset() =
    Message(
        when (role) {
            NativeRole.SYSTEM -> Role.SYSTEM
            NativeRole.USER -> Role.USER
            NativeRole.ASSISTANT -> Role.ASSISTANT
        },
        text,
    )

/** What the stream says of itself now. */
internal fun NativeStream.report(): Statistics {
    // In this order: figures are final when there is a reason.
    val stop = stopReason()?.toHotset()
    val now = statistics()
    return Statistics(now.promptTokens.toLong(), now.generatedTokens.toLong(), now.firstTokenSeconds?.seconds, now.tokensPerSecond, stop)
}

private fun NativeStopReason.toHotset() =
    when (this) {
        NativeStopReason.END -> StopReason.END
        NativeStopReason.STOP_TEXT -> StopReason.STOP_TEXT
        NativeStopReason.MAX_TOKENS -> StopReason.MAX_TOKENS
        NativeStopReason.CONTEXT_FULL -> StopReason.CONTEXT_FULL
        NativeStopReason.CANCELLED -> StopReason.CANCELLED
        NativeStopReason.FAILED -> StopReason.FAILED
    }

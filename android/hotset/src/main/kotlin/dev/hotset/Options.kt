// What an app may choose. Defaults are the library's own.
package dev.hotset

import java.io.File

/**
 * How to open a bundle.
 *
 * @property device `auto` (a hardware GPU if there is one that can hold the model, else the CPU), `cpu`, `gpu`, or a part of a GPU's name.
 * @property budget bytes of memory that the model may take, everything included; experts that do not fit are read from the file when they are
 *   chosen. Without one the model is resident as a whole, [Hotset.setBudget] fails and [HotsetMemory] has nothing to steer. On a phone, begin
 *   with [MemoryPolicy.initialBudget].
 * @property threads threads on the CPU; by default one for each core.
 * @property heat a file that [Hotset.saveHeat] wrote: which experts to load first. One that does not exist is ignored.
 */
public data class HotsetOptions(
    val device: String = "auto",
    val budget: Long? = null,
    val threads: Int? = null,
    val heat: File? = null,
)

/**
 * How a session keeps its conversation.
 *
 * @property context tokens that the caches hold; by default what the model was trained for, at most 4096.
 * @property slide whether the oldest tokens are forgotten when the caches are full. Otherwise messages that do not fit are refused, and an answer
 *   ends where the context does.
 * @property system tells the model how to behave.
 * @property expertsPerToken experts that each token uses, instead of as many as the model was trained for: fewer are faster and worse.
 */
public data class SessionOptions(
    val context: Int? = null,
    val slide: Boolean = false,
    val system: String? = null,
    val expertsPerToken: Int? = null,
)

/**
 * Which experts sessions do with.
 *
 * @property keep share of the experts' bytes to keep, larger than 0 and at most 1.
 * @property texts the kinds of text to keep them for, by their names in the profile; empty for all.
 */
public data class ProfileOptions(
    val keep: Double,
    val texts: List<String> = emptyList(),
)

/**
 * How to answer.
 *
 * @property maxTokens most tokens of the answer.
 * @property temperature 0 takes the likeliest token always; 1 samples from the model's own distribution.
 * @property topK choose among so many of the likeliest tokens; 0 for all. 1 to 128 are fastest.
 * @property topP choose among the likeliest tokens that together have this probability; in (0, 1].
 * @property minP leave out tokens less than this many times as likely as the likeliest; in \[0, 1\].
 * @property repeatPenalty makes tokens of the last 64 less likely when larger than 1.
 * @property seed the same seed gives the same answer; by default another one every time.
 * @property stop texts that end the answer, without being part of it.
 */
public data class GenerateOptions(
    val maxTokens: Int = 512,
    val temperature: Float = 0.8f,
    val topK: Int = 40,
    val topP: Float = 0.95f,
    val minP: Float = 0f,
    val repeatPenalty: Float = 1f,
    val seed: Long? = null,
    val stop: List<String> = emptyList(),
)

// What can go wrong, for a program to decide by and a person to read.
package dev.hotset

/**
 * Every failure of Hotset. The message is one sentence that says what to do; it is meant for logs and for people who can read English, not for
 * users of an app: decide by the type and say it in their words.
 */
public sealed class HotsetException(message: String, cause: Throwable? = null) : Exception(message, cause) {
    /** A file could not be read or written. */
    public class File(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The file is not a bundle, not a saved conversation, or damaged. */
    public class Broken(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** What was asked for cannot be done as asked; for a budget, the message names the smallest. */
    public class Invalid(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The conversation does not fit the context. */
    public class ContextFull(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** There is no such device, it failed, or there is no library for this processor. After a failure of a GPU, pause and resume. */
    public class Device(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The session is answering: cancel that answer or wait for its end. */
    public class Busy(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The engine is paused: [Hotset.resume] it first. */
    public class Paused(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The engine or the session was closed, maybe in the middle of an answer. */
    public class Closed(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** The opening was stopped because its progress listener threw; what it threw is the [cause]. */
    public class Stopped(message: String, cause: Throwable? = null) : HotsetException(message, cause)

    /** A defect of Hotset. */
    public class Internal(message: String, cause: Throwable? = null) : HotsetException(message, cause)
}

//! Why a command failed: one sentence for a person, and whether to say it at all.

use std::io;

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A command's failure. Its text is one sentence with the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library's error.
    #[error(transparent)]
    Hotset(#[from] hotset::Error),
    /// The tool's own.
    #[error("{0}")]
    Message(String),
    /// The reader of our output went away, as `head` does: not worth a word.
    #[error("the output was closed")]
    Closed,
}

impl Failure {
    /// A failure that says `message`.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::Message(message.into())
    }
}

impl From<serde_json::Error> for Failure {
    /// For writing JSON to the standard streams.
    fn from(e: serde_json::Error) -> Failure {
        io::Error::from(e).into()
    }
}

impl From<io::Error> for Failure {
    /// For reading and writing the standard streams; files have paths to name, see [`hotset::Error::Io`].
    fn from(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Message(format!("input or output failed: {e}")),
        }
    }
}

impl From<candle_core::Error> for Failure {
    /// For tensors: their shapes are checked before, so that what is left is a lack of memory.
    fn from(e: candle_core::Error) -> Failure {
        Failure::Message(format!("computing with tensors failed: {e}"))
    }
}

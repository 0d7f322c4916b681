//! The one error type of the library, by category.

use std::path::{Path, PathBuf};

use crate::plan::PlanError;

/// Result of this library's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Every message is one sentence a user can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "map", "write to".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a bundle this library can use.
    #[error("{} is not a usable bundle: {reason}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// The field that is wrong, and how.
        reason: String,
    },
    /// The file is not a conversation that can go on here.
    #[error("{} is not a conversation that can go on here: {reason}", path.display())]
    Conversation {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A plan contradicts itself or its tensors.
    #[error("the plan is wrong at {0}")]
    Plan(#[from] PlanError),
    /// What the caller asked for cannot be done as asked.
    #[error("{0}")]
    Input(String),
    /// The conversation does not fit the context.
    #[error(
        "{needed} tokens do not fit the context of {available}; shorten the prompt, ask for a longer context, or choose a sliding window"
    )]
    Context {
        /// Tokens in the cache after what was asked for.
        needed: usize,
        /// Tokens the session's cache holds.
        available: usize,
    },
    /// The tokenizer or the chat template of the bundle does not work.
    #[error("{0}")]
    Text(String),
    /// There is no such device, or it failed.
    #[error("{0}")]
    Device(String),
    /// The engine is [suspended](crate::Engine::suspend).
    #[error("the engine is suspended; resume it first")]
    Suspended,
    /// Whoever [listened](crate::Loading) to the opening of a bundle wanted no more of it.
    #[error("opening the bundle was stopped")]
    Stopped,
    /// The model's numbers are not finite: damaged weights.
    #[error("the model produced {0}; its weights are damaged, check the file with `hotset inspect --verify`")]
    NotFinite(String),
}

/// Coarse kinds of [`Error`], for callers that decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Category {
    /// The system refused: disk, permissions, memory mapping.
    System,
    /// The file is at fault.
    File,
    /// The caller is at fault.
    Caller,
    /// The device is at fault or absent.
    Device,
}

impl Error {
    /// The kind of this error.
    pub fn category(&self) -> Category {
        match self {
            Error::Io { .. } => Category::System,
            Error::Bundle { .. } | Error::Conversation { .. } | Error::Plan(_) | Error::Text(_) | Error::NotFinite(_) => Category::File,
            Error::Input(_) | Error::Context { .. } | Error::Suspended | Error::Stopped => Category::Caller,
            Error::Device(_) => Category::Device,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

//! What can go wrong, for a program to decide by and a person to read.

/// Every failure of this library. The message is one sentence that says what to do.
#[derive(Debug, thiserror::Error, uniffi::Error)]
#[uniffi(flat_error)]
#[non_exhaustive]
pub enum HotsetError {
    /// A file could not be read or written.
    #[error("{0}")]
    File(String),
    /// The file is not a bundle, not a saved conversation, or damaged.
    #[error("{0}")]
    Broken(String),
    /// What was asked for cannot be done as asked; for a budget, the message names the smallest.
    #[error("{0}")]
    Invalid(String),
    /// The conversation does not fit the context.
    #[error("{0}")]
    ContextFull(String),
    /// There is no such device, or it failed. After a failure of a GPU, suspending and resuming the engine makes it ready again.
    #[error("{0}")]
    Device(String),
    /// The session is answering; cancel or wait.
    #[error("the session is answering already; cancel that answer, or wait for its end")]
    Busy,
    /// The engine is suspended; resume it first.
    #[error("the engine is suspended; resume it first")]
    Suspended,
    /// The engine or the session was shut down.
    #[error("the {0} was closed; open another one")]
    Closed(&'static str),
    /// The listener asked to stop, or failed.
    #[error("opening the bundle was stopped")]
    Stopped,
    /// A defect of Hotset.
    #[error("{0}; this is a defect of hotset, please report it")]
    Internal(String),
}

impl From<hotset::Error> for HotsetError {
    fn from(e: hotset::Error) -> HotsetError {
        use hotset::Error as E;
        let message = e.to_string();
        match e {
            E::Io { .. } => HotsetError::File(message),
            E::Bundle { .. } | E::Conversation { .. } | E::Plan(_) | E::Text(_) | E::NotFinite(_) => HotsetError::Broken(message),
            E::Context { .. } => HotsetError::ContextFull(message),
            E::Device(_) => HotsetError::Device(message),
            E::Stopped => HotsetError::Stopped,
            E::Suspended => HotsetError::Suspended,
            _ => HotsetError::Invalid(message),
        }
    }
}

/// What a [`LoadListener`](crate::LoadListener) throws to stop the opening of a bundle. Whatever else it throws does the same.
#[derive(Debug, thiserror::Error, uniffi::Error)]
pub enum ListenerError {
    /// Enough.
    #[error("stopped")]
    Stopped,
}

impl From<uniffi::UnexpectedUniFFICallbackError> for ListenerError {
    fn from(e: uniffi::UnexpectedUniFFICallbackError) -> ListenerError {
        tracing::warn!("a listener failed: {}", e.reason);
        ListenerError::Stopped
    }
}

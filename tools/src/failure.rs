//! Why a command failed: one sentence for stderr.

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library refused.
    #[error(transparent)]
    Hotset(#[from] hotset::Error),
}

//! Stopping a generation from elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A switch shared between whoever generates and whoever may want it to stop. Clones are the same switch.
///
/// A generation looks at it before every token and between the chunks of a long prompt, so it ends within one token's time. A
/// cancelled token stays cancelled until [`reset`](Self::reset).
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A switch that is off.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Asks every generation that watches this token to stop. Only sets a flag: fit for a signal handler.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the token fit for another generation.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

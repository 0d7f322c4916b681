//! How far the opening of a bundle is, and a way to stop it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Who wants to know.
type Listener = Box<dyn Fn(f64) -> ControlFlow<()> + Send + Sync>;

/// Told how far the opening of a bundle is; see [`Engine::of_bundle_with`](crate::Engine::of_bundle_with).
pub struct Loading {
    listener: Option<Listener>,
    /// Bytes that are ready, and how many there will be.
    done: AtomicU64,
    total: AtomicU64,
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Loading {
    /// Nobody listens.
    pub(crate) const UNHEARD: Loading = Loading { listener: None, done: AtomicU64::new(0), total: AtomicU64::new(0) };

    /// Calls `listener` with the share of the work that is done, from 0 to 1, never less than before. When it breaks, the opening ends with
    /// [`Error::Stopped`].
    pub fn new(listener: impl Fn(f64) -> ControlFlow<()> + Send + Sync + 'static) -> Loading {
        Loading { listener: Some(Box::new(listener)), ..Loading::UNHEARD }
    }

    /// The work begins: so many bytes.
    pub(crate) fn begin(&self, total: u64) -> Result<()> {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.tell(0.0)
    }

    /// So many more bytes are ready.
    pub(crate) fn add(&self, bytes: u64) -> Result<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // What was estimated may be exceeded; the end is said by `end` alone.
        self.tell((done as f64 / self.total.load(Ordering::Relaxed).max(1) as f64).min(0.99))
    }

    /// All is done.
    pub(crate) fn end(&self) -> Result<()> {
        self.tell(1.0)
    }

    fn tell(&self, share: f64) -> Result<()> {
        match self.listener.as_ref().map(|listen| listen(share)) {
            Some(ControlFlow::Break(())) => Err(Error::Stopped),
            _ => Ok(()),
        }
    }
}

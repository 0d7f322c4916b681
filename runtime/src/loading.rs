//! How far the opening of a bundle is, and a way to stop it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Steps in which progress is told.
const STEPS: u64 = 1000;

/// Told how far the opening of a bundle is; see [`Engine::of_bundle_with`](crate::Engine::of_bundle_with). Clones tell the same listener. The
/// [default](Default::default) tells nobody.
#[derive(Clone, Default)]
pub struct Loading(Option<Arc<Inner>>);

struct Inner {
    listener: Box<dyn Fn(f64) -> ControlFlow<()> + Send + Sync>,
    /// Bytes that are ready, and how many there will be.
    done: AtomicU64,
    total: AtomicU64,
    /// Steps that were told, and one.
    told: AtomicU64,
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = self.0.as_ref().map(|inner| inner.told.load(Ordering::Relaxed).saturating_sub(1) as f64 / STEPS as f64);
        f.debug_tuple("Loading").field(&told).finish()
    }
}

impl Loading {
    /// Calls `listener` with the share of the work that is done, rising from 0 to 1. When it breaks, the opening ends with [`Error::Stopped`].
    pub fn new(listener: impl Fn(f64) -> ControlFlow<()> + Send + Sync + 'static) -> Loading {
        let (done, total, told) = Default::default();
        Loading(Some(Arc::new(Inner { listener: Box::new(listener), done, total, told })))
    }

    /// The work begins: so many bytes.
    pub(crate) fn begin(&self, total: u64) -> Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        inner.total.store(total, Ordering::Relaxed);
        inner.done.store(0, Ordering::Relaxed);
        inner.tell(0)
    }

    /// So many more bytes are ready.
    pub(crate) fn add(&self, bytes: u64) -> Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let done = inner.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = inner.total.load(Ordering::Relaxed).max(1);
        // The total is an estimate, and only `end` says that there is nothing more to do.
        inner.tell((u128::from(done) * u128::from(STEPS) / u128::from(total)).min(u128::from(STEPS - 1)) as u64)
    }

    /// All is done.
    pub(crate) fn end(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |inner| inner.tell(STEPS))
    }
}

impl Inner {
    /// Tells `step`, unless as much was told before.
    fn tell(&self, step: u64) -> Result<()> {
        if self.told.fetch_max(step + 1, Ordering::Relaxed) > step {
            return Ok(());
        }
        match (self.listener)(step as f64 / STEPS as f64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Mutex;

    use super::*;

    /// Shares rise from 0 to 1, also when the work begins again or was estimated too low, and small steps are not told one by one.
    #[test]
    fn shares_rise() {
        let heard: Arc<Mutex<Vec<f64>>> = Arc::default();
        let listener = heard.clone();
        let loading = Loading::new(move |share| {
            listener.lock().unwrap().push(share);
            ControlFlow::Continue(())
        });
        for _ in 0..2 {
            loading.begin(1_000_000).unwrap();
            (0..12_000).for_each(|_| loading.add(100).unwrap());
        }
        loading.end().unwrap();
        let heard = heard.lock().unwrap();
        assert!(heard.is_sorted_by(|a, b| a < b) && heard.len() == 1001, "{}", heard.len());
        assert_eq!((heard[0], heard[1000]), (0.0, 1.0));
    }

    #[test]
    fn a_listener_can_stop_it() {
        let loading = Loading::new(|share| if share < 0.5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
        loading.begin(10).unwrap();
        loading.add(4).unwrap();
        assert!(matches!(loading.add(1), Err(Error::Stopped)));
    }
}

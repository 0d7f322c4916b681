//! The budget of a model: everything it takes on the device, counted before it is made.

use crate::error::{Error, Result};
use crate::experts::{Catalogue, Layout, Policy, Sharing};

/// What a budget must pay for, and how the rest is cut into slots. In bytes.
pub(super) struct Budget {
    /// All of it.
    pub(super) limit: u64,
    /// A limit that has been set and is not in force yet.
    pub(super) pending: Option<u64>,
    /// Dense weights, table, latch, staging.
    pub(super) fixed: u64,
    /// Working memory and caches of all runs.
    pub(super) runs: u64,
    /// Most bytes of a region.
    pub(super) binding: u64,
    pub(super) policy: Policy,
}

impl Budget {
    /// The smallest limit that works while all runs stay.
    pub(super) fn least(&self, catalogue: &Catalogue) -> u64 {
        let of = |sharing| Layout::new(catalogue, 0, sharing, self.binding).err().unwrap_or(0);
        let slots = match self.policy {
            Policy::Lru => of(Sharing::Shared).min(of(Sharing::PerPool)),
            Policy::NextUse | Policy::Lfu => of(Sharing::Shared),
        };
        self.taken() + slots
    }

    /// What cannot be paged.
    pub(super) fn taken(&self) -> u64 {
        self.fixed + self.runs
    }

    /// Slots under `limit`, with `more` bytes for a run that is about to start.
    ///
    /// # Errors
    /// When it is too small; the message names the smallest that works.
    pub(super) fn layout(&self, catalogue: &Catalogue, limit: u64, more: u64) -> Result<Layout> {
        let rest = limit.checked_sub(self.taken() + more);
        rest.and_then(|slots| self.cut(catalogue, slots).ok()).ok_or_else(|| too_small(limit, self.least(catalogue) + more))
    }

    fn cut(&self, catalogue: &Catalogue, slots: u64) -> std::result::Result<Layout, u64> {
        Layout::new(catalogue, slots, Sharing::best(self.policy, catalogue, slots), self.binding)
    }
}

/// The error for a budget of `limit` bytes where `least` are needed.
pub(super) fn too_small(limit: u64, least: u64) -> Error {
    Error::Input(format!(
        "a budget of {limit} bytes is too small for this model and its conversations; the smallest that works is {least} bytes: `--vram {least}`"
    ))
}

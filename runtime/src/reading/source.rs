//! Where records come from: the file, or the system's memory in front of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Buffer;
use super::host::too_small;
use crate::bundle::{Bundle, Reading};
use crate::error::Result;
use crate::experts::{Counts, Layout, Policy, RecordId, Sharing, Tier};

/// A bundle's records.
pub(crate) struct Source {
    bundle: Arc<Bundle>,
    reading: Reading,
    memory: Option<Mutex<Memory>>,
    bytes_read: AtomicU64,
}

/// Records that were read before. A GPU's misses end here when it may use the system's memory too.
struct Memory {
    tier: Tier,
    buffers: Vec<Option<Arc<Buffer>>>,
    /// The first step that uses each pool.
    step_of: Vec<usize>,
}

impl Source {
    /// Straight from the file.
    pub(crate) fn file(bundle: &Arc<Bundle>, reading: Reading) -> Arc<Source> {
        Arc::new(Source { bundle: bundle.clone(), reading, memory: None, bytes_read: 0.into() })
    }

    /// Keeps `budget` bytes of records in memory.
    ///
    /// # Errors
    /// When that is less than one token needs of a step.
    pub(crate) fn with_memory(bundle: &Arc<Bundle>, reading: Reading, budget: u64, policy: Policy) -> Result<Arc<Source>> {
        let catalogue = Arc::new(bundle.catalogue());
        let sharing = Sharing::best(policy, &catalogue, budget);
        let layout = Layout::new(&catalogue, budget, sharing, u64::MAX).map_err(|least| too_small(budget, least))?;
        let step_of = |p| catalogue.steps().iter().position(|s| *s == Some(p)).unwrap_or(0);
        let memory = Memory {
            step_of: (0..catalogue.pools().len()).map(step_of).collect(),
            buffers: (0..catalogue.records()).map(|_| None).collect(),
            tier: Tier::new(catalogue, &layout, policy),
        };
        Ok(Arc::new(Source { bundle: bundle.clone(), reading, memory: Some(Mutex::new(memory)), bytes_read: 0.into() }))
    }

    fn memory(&self) -> Option<MutexGuard<'_, Memory>> {
        // A buffer is put in its place in one step, so a panic elsewhere leaves the rest whole.
        self.memory.as_ref().map(|m| m.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often the memory had what was asked for; nothing was without one.
    pub(crate) fn counts(&self) -> Counts {
        self.memory().map_or(Counts::default(), |m| m.tier.counts())
    }

    /// Bytes that came from the file.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Fills `to`, which is at least as long as the record.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&self, pool: usize, record: u32, to: &mut [u8]) -> Result<()> {
        let bytes = self.bundle.record_layout(pool).bytes;
        if let Some(held) = self.memory().and_then(|mut m| m.look_up(pool, record)) {
            to[..bytes].copy_from_slice(&held.bytes()[..bytes]);
            return Ok(());
        }
        self.bundle.read_record(pool, record, to, self.reading)?;
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        match self.memory() {
            Some(mut memory) => memory.keep(pool, record, &to[..bytes]),
            None => Ok(()),
        }
    }
}

impl Memory {
    fn look_up(&mut self, pool: usize, record: u32) -> Option<Arc<Buffer>> {
        let (step, r) = (self.step_of[pool], self.tier.catalogue().id(pool, record));
        // Steps come in order: an earlier one belongs to the next token.
        if step < self.tier.now().step {
            self.tier.begin_pass();
        }
        self.tier.want(step, &[r]);
        self.tier.unpin(r);
        self.buffers[r.index()].clone()
    }

    fn keep(&mut self, pool: usize, record: u32, bytes: &[u8]) -> Result<()> {
        let r = self.tier.catalogue().id(pool, record);
        // Somebody else may have read it meanwhile.
        if self.tier.slot(r).is_some() {
            return Ok(());
        }
        let Some((_, gone)) = self.tier.admit(r) else { return Ok(()) };
        self.tier.unpin(r);
        let mut buffer = self.room(gone, bytes.len()).inspect_err(|_| self.tier.remove(r))?;
        match Arc::get_mut(&mut buffer) {
            Some(b) => b.bytes_mut()[..bytes.len()].copy_from_slice(bytes),
            None => {
                self.tier.remove(r);
                return Ok(());
            }
        }
        self.buffers[r.index()] = Some(buffer);
        Ok(())
    }

    /// The memory of who left, unless it is being copied from, or new memory.
    fn room(&mut self, gone: Option<RecordId>, bytes: usize) -> Result<Arc<Buffer>> {
        match gone.and_then(|g| self.buffers[g.index()].take()).filter(|b| Arc::strong_count(b) == 1) {
            Some(buffer) => Ok(buffer),
            None => Ok(Arc::new(Buffer::new(bytes)?)),
        }
    }
}

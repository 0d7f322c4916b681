//! Records in the host's memory under a budget: a [`Tier`] with the bytes it keeps book of, and the reads that fill it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Buffer, Done, Reader};
use crate::bundle::{Bundle, Reading};
use crate::error::{Error, Result};
use crate::experts::{Catalogue, Counts, Heat, Layout, Policy, RecordId, Sharing, Tier};

/// How a [`Host`] works.
#[derive(Clone, Debug)]
pub(crate) struct HostOptions {
    /// Bytes of everything together.
    pub(crate) budget: u64,
    /// Bytes that are not records: dense weights, working memory.
    pub(crate) fixed: u64,
    pub(crate) policy: Policy,
    pub(crate) reading: Reading,
    /// Reads ahead what a router expects to be used.
    pub(crate) prefetch: bool,
}

/// A cache of records.
pub(crate) struct Host {
    options: HostOptions,
    sharing: Sharing,
    tier: Tier,
    reader: Reader,
    /// Bytes of each record that is in and not on its way.
    buffers: Vec<Option<Buffer>>,
    on_their_way: Vec<bool>,
    bytes_read: u64,
    stall: Duration,
}

impl Host {
    /// An empty cache.
    ///
    /// # Errors
    /// When the budget is too small; the message names the smallest one.
    pub(crate) fn new(bundle: &Arc<Bundle>, options: HostOptions) -> Result<Host> {
        let catalogue = Arc::new(Catalogue::new(bundle.plan(), |p| bundle.record_layout(p).bytes as u64));
        let slots = options.budget.saturating_sub(options.fixed);
        let sharing = Sharing::best(options.policy, &catalogue, slots);
        let layout = layout(&catalogue, &options, sharing)?;
        let reader = Reader::new(bundle, options.reading)?;
        let n = catalogue.records();
        Ok(Host {
            sharing,
            tier: Tier::new(catalogue, &layout, options.policy),
            reader,
            buffers: (0..n).map(|_| None).collect(),
            on_their_way: vec![false; n],
            bytes_read: 0,
            stall: Duration::ZERO,
            options,
        })
    }

    /// The smallest budget that works.
    pub(crate) fn least(&self) -> u64 {
        let least = Layout::new(self.tier.catalogue(), 0, self.sharing, u64::MAX).err();
        self.options.fixed + least.unwrap_or(0)
    }

    pub(crate) fn tier(&self) -> &Tier {
        &self.tier
    }

    pub(crate) fn options(&self) -> &HostOptions {
        &self.options
    }

    pub(crate) fn counts(&self) -> Counts {
        self.tier.counts()
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    pub(crate) fn set_heat(&mut self, heat: Heat) {
        self.tier.set_heat(heat);
    }

    /// Changes the budget, or what of it is not for records. What does not fit any more is given back to the system before this returns.
    ///
    /// # Errors
    /// When it is too small; nothing has changed then.
    pub(crate) fn resize(&mut self, budget: u64, fixed: u64) -> Result<()> {
        let options = HostOptions { budget, fixed, ..self.options.clone() };
        let slots = budget.saturating_sub(fixed);
        let sharing = Sharing::best(options.policy, self.tier.catalogue(), slots);
        let layout = layout(self.tier.catalogue(), &options, sharing)?;
        self.settle();
        if sharing == self.sharing {
            for r in self.tier.resize(&layout) {
                self.buffers[r.index()] = None;
            }
        } else {
            self.buffers.fill_with(|| None);
            self.tier.clear(&layout);
        }
        (self.options, self.sharing) = (options, sharing);
        Ok(())
    }

    /// A forward pass begins.
    pub(crate) fn begin_pass(&mut self) {
        self.tier.begin_pass();
    }

    /// Step `step` uses `records`, each named once: they come wave by wave.
    pub(crate) fn feed(&mut self, step: usize, records: &[RecordId]) -> Feed<'_> {
        while let Some(done) = self.reader.finished() {
            // What was read ahead and failed is asked for again if it is needed.
            let _ = self.arrive(done);
        }
        self.tier.want(step, records);
        Feed { records: records.to_vec(), left: records.to_vec(), wave: Vec::new(), host: self }
    }

    /// A router expects these records to be used soon: they stay, and if it is so set, come.
    pub(crate) fn expect(&mut self, records: &[RecordId]) {
        self.tier.expect(records.iter().copied());
        if self.options.prefetch {
            for &r in records.iter().filter(|r| self.tier.slot(**r).is_none()).collect::<Vec<_>>() {
                // Without memory for it the record is read when it is needed, and the error told then.
                let _ = self.order(r, false);
            }
        }
    }

    /// Gives a record that is not in a slot and orders it; false when all slots are pinned.
    fn order(&mut self, r: RecordId, urgent: bool) -> Result<bool> {
        let Some((_, gone)) = self.tier.admit(r) else { return Ok(false) };
        let (pool, record) = self.tier.catalogue().locate(r);
        let bytes = usize::try_from(self.tier.catalogue().pools()[pool].bytes).unwrap_or(usize::MAX);
        // Slots of a region are equal: the bytes of who left serve who comes.
        let buffer = match gone.and_then(|g| self.buffers[g.index()].take()) {
            Some(b) => b,
            None => Buffer::new(bytes).inspect_err(|_| self.tier.remove(r))?,
        };
        self.on_their_way[r.index()] = true;
        self.bytes_read += bytes as u64;
        self.reader.start(pool, record, buffer, urgent);
        Ok(true)
    }

    /// Takes a finished read in; it stays pinned for whoever waits for it.
    fn arrive(&mut self, done: Done) -> Result<RecordId> {
        let r = self.tier.catalogue().id(done.pool, done.record);
        self.on_their_way[r.index()] = false;
        self.tier.unpin(r);
        match done.result {
            Ok(()) => {
                self.buffers[r.index()] = Some(done.buffer);
                Ok(r)
            }
            Err(e) => {
                self.tier.remove(r);
                Err(e)
            }
        }
    }

    /// Waits until nothing is on its way.
    fn settle(&mut self) {
        while let Some(done) = self.reader.wait() {
            let _ = self.arrive(done);
        }
    }
}

fn layout(catalogue: &Catalogue, o: &HostOptions, sharing: Sharing) -> Result<Layout> {
    let slots = o.budget.saturating_sub(o.fixed);
    Layout::new(catalogue, slots, sharing, u64::MAX).map_err(|least| too_small(o.budget, o.fixed + least))
}

pub(crate) fn too_small(budget: u64, least: u64) -> Error {
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    Error::Input(format!(
        "a budget of {budget} bytes ({:.1} MiB) is too small for this model and its conversations; the smallest that works is {least} bytes ({:.1} MiB)",
        mib(budget),
        mib(least)
    ))
}

/// The records of one step, as they come. What is in memory comes first, so that it is computed with while the rest is read.
pub(crate) struct Feed<'h> {
    host: &'h mut Host,
    /// All of them.
    records: Vec<RecordId>,
    /// Not yet handed out.
    left: Vec<RecordId>,
    /// Handed out last, pinned.
    wave: Vec<RecordId>,
}

impl Feed<'_> {
    /// The next records that are in memory, and stay there until the next call; empty at the end.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub(crate) fn next(&mut self) -> Result<&[RecordId]> {
        self.wave.drain(..).for_each(|r| self.host.tier.unpin(r));
        while !self.left.is_empty() {
            self.order()?;
            while let Some(done) = self.host.reader.finished() {
                self.take(done)?;
            }
            let host = &mut *self.host;
            let (wave, left) = self.left.drain(..).partition(|r| host.buffers[r.index()].is_some());
            (self.wave, self.left) = (wave, left);
            if !self.wave.is_empty() {
                self.wave.iter().for_each(|r| host.tier.pin(*r));
                // The wave may have made room, in the order of what was left, for reads that overlap its arithmetic.
                self.order()?;
                break;
            }
            let started = Instant::now();
            let done = host.reader.wait().ok_or_else(stuck)?;
            host.stall += started.elapsed();
            self.take(done)?;
        }
        Ok(&self.wave)
    }

    /// Once more from the beginning: what is still in memory comes first.
    pub(crate) fn rewind(&mut self) {
        self.wave.drain(..).for_each(|r| self.host.tier.unpin(r));
        self.left.clone_from(&self.records);
        let here = |r: &&RecordId| self.host.buffers[r.index()].is_some();
        let here: Vec<RecordId> = self.left.iter().filter(here).copied().collect();
        here.iter().for_each(|r| self.host.tier.pin(*r));
    }

    /// The bytes of a record of the last wave.
    pub(crate) fn bytes(&self, r: RecordId) -> Option<&[u8]> {
        self.host.buffers[r.index()].as_ref().map(Buffer::bytes)
    }

    /// Orders as much of what is left as there are slots for.
    fn order(&mut self) -> Result<()> {
        for &r in &self.left {
            if self.host.tier.slot(r).is_none() && !self.host.order(r, true)? {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, done: Done) -> Result<()> {
        let wanted = self.host.tier.catalogue().id(done.pool, done.record);
        match self.host.arrive(done) {
            Ok(r) if self.left.contains(&r) => self.host.tier.pin(r),
            Err(e) if self.left.contains(&wanted) => return Err(e),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        // What is still on its way unpins itself when it arrives.
        let idle = |r: &&RecordId| !self.host.on_their_way[r.index()];
        let done: Vec<RecordId> = self.records.iter().filter(idle).copied().collect();
        done.iter().for_each(|r| self.host.tier.unpin(*r));
    }
}

fn stuck() -> Error {
    Error::Device("an expert has no slot and nobody is reading it".into())
}

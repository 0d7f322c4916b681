//! Records in the host's memory under a budget: a [`Tier`] with the bytes it keeps book of, and the reads that fill it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Buffer, Done, Reader, Source};
use crate::bundle::{Bundle, Reading};
use crate::error::{Error, Result};
use crate::experts::{Catalogue, Heat, Layout, Policy, RecordId, Sharing, Tier};
use crate::model::Paging;

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
    /// All records must have a slot.
    pub(crate) resident: bool,
}

/// A cache of records.
pub(crate) struct Host {
    options: HostOptions,
    sharing: Sharing,
    tier: Tier,
    source: Arc<Source>,
    reader: Reader,
    /// Bytes of each record that is in and not on its way.
    buffers: Vec<Option<Buffer>>,
    on_their_way: Vec<bool>,
    /// By a router, not yet ordered.
    expected: Vec<RecordId>,
    stall: Duration,
}

impl Host {
    /// Waits for others and keeps it. A step that panicked leaves reads on their way, which whoever comes next takes in.
    pub(crate) fn lock(host: &Mutex<Host>) -> MutexGuard<'_, Host> {
        host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of records that it cannot do with less than.
    pub(crate) fn least(bundle: &Bundle) -> u64 {
        Layout::new(&bundle.catalogue(), 0, Sharing::Shared, u64::MAX).err().unwrap_or(0)
    }

    /// An empty cache.
    ///
    /// # Errors
    /// When the budget is too small; the message names the smallest one.
    pub(crate) fn new(bundle: &Arc<Bundle>, options: HostOptions) -> Result<Host> {
        let catalogue = Arc::new(bundle.catalogue());
        let slots = options.budget.saturating_sub(options.fixed);
        let sharing = Sharing::best(options.policy, &catalogue, slots);
        let layout = layout(&catalogue, &options, sharing)?;
        let source = Source::file(bundle, options.reading);
        let reader = Reader::new(&source)?;
        let n = catalogue.records();
        Ok(Host {
            sharing,
            tier: Tier::new(catalogue, &layout, options.policy),
            source,
            reader,
            buffers: (0..n).map(|_| None).collect(),
            on_their_way: vec![false; n],
            expected: Vec::new(),
            stall: Duration::ZERO,
            options,
        })
    }

    pub(crate) fn tier(&self) -> &Tier {
        &self.tier
    }

    pub(crate) fn options(&self) -> &HostOptions {
        &self.options
    }

    pub(crate) fn report(&self, least: u64) -> Paging {
        let HostOptions { budget, fixed, .. } = self.options;
        Paging {
            budget,
            fixed,
            least,
            slots: self.tier.bytes(),
            experts: self.tier.catalogue().bytes(),
            counts: self.tier.counts(),
            bytes_read: self.source.bytes_read(),
            stall: self.stall,
            ..Paging::default()
        }
    }

    /// See [`Model::heat`](crate::model::Model::heat).
    pub(crate) fn heat(&self, fingerprint: &str) -> String {
        self.tier.heat().save(self.tier.catalogue(), fingerprint)
    }

    /// Starts from saved heat: the hottest records come in the background, as long as nobody has to leave for them.
    pub(crate) fn set_heat(&mut self, json: &str, fingerprint: &str) -> Result<()> {
        let heat = Heat::load(json, self.tier.catalogue(), fingerprint).map_err(Error::Input)?;
        let hottest = heat.hottest(self.tier.catalogue());
        self.tier.set_heat(heat);
        for r in hottest {
            if self.tier.slot(r).is_none() && self.tier.has_room(r) {
                self.order(r, false)?;
            }
        }
        Ok(())
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
    ///
    /// # Errors
    /// When there is no memory for one of them.
    pub(crate) fn feed(&mut self, step: usize, records: &[RecordId]) -> Result<Feed<'_>> {
        while let Some(done) = self.reader.finished() {
            // What was read ahead and failed is asked for again if it is needed.
            let _ = self.arrive(done);
        }
        self.tier.want(step, records);
        let mut feed = Feed { records: records.to_vec(), left: records.to_vec(), wave: Vec::new(), host: self };
        feed.order()?;
        feed.host.prefetch();
        Ok(feed)
    }

    /// A router expects these records to be used later in this pass: they stay, and if it is so set, come.
    pub(crate) fn expect(&mut self, records: impl IntoIterator<Item = RecordId>) {
        self.expected.clear();
        self.expected.extend(records);
        self.tier.expect(self.expected.iter().copied());
    }

    /// Orders what is expected, after what is needed now. Steps that [feed](Self::feed) see to that themselves.
    pub(crate) fn prefetch(&mut self) {
        for r in std::mem::take(&mut self.expected) {
            if self.options.prefetch && self.tier.slot(r).is_none() {
                // Without memory for it the record is read when it is needed, and the error told then.
                let _ = self.order(r, false);
            }
        }
    }

    /// Gives a record that is not in a slot and orders it; false when all slots are pinned, or expected where it is not urgent.
    fn order(&mut self, r: RecordId, urgent: bool) -> Result<bool> {
        let admitted = if urgent { self.tier.admit(r) } else { self.tier.admit_expected(r) };
        let Some((_, gone)) = admitted else { return Ok(false) };
        let (pool, record) = self.tier.catalogue().locate(r);
        let bytes = usize::try_from(self.tier.catalogue().pools()[pool].bytes).unwrap_or(usize::MAX);
        // Slots of a region are equal: the bytes of who left serve who comes.
        let buffer = match gone.and_then(|g| self.buffers[g.index()].take()) {
            Some(b) => b,
            None => Buffer::new(bytes).inspect_err(|_| self.tier.remove(r))?,
        };
        self.on_their_way[r.index()] = true;
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
    let slots = o.budget.checked_sub(o.fixed);
    let layout = Layout::new(catalogue, slots.unwrap_or(0), sharing, u64::MAX);
    match (layout, slots) {
        (Ok(layout), Some(_)) if o.resident && layout.bytes() < catalogue.bytes() => Err(too_small(o.budget, o.fixed + catalogue.bytes())),
        (Ok(layout), Some(_)) => Ok(layout),
        (layout, _) => Err(too_small(o.budget, o.fixed + layout.err().unwrap_or(0))),
    }
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
    /// Goes on to the next wave: records that are in memory, and stay there until the next call. False at the end.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub(crate) fn advance(&mut self) -> Result<bool> {
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
        Ok(!self.wave.is_empty())
    }

    /// Once more from the beginning: what is still in memory comes first.
    pub(crate) fn rewind(&mut self) {
        self.wave.drain(..).for_each(|r| self.host.tier.unpin(r));
        self.left.clone_from(&self.records);
        let here = |r: &&RecordId| self.host.buffers[r.index()].is_some();
        let here: Vec<RecordId> = self.left.iter().filter(here).copied().collect();
        here.iter().for_each(|r| self.host.tier.pin(*r));
    }

    /// The bytes of a record of this wave; `None` for others.
    pub(crate) fn bytes(&self, r: RecordId) -> Option<&[u8]> {
        self.host.buffers[r.index()].as_ref().filter(|_| self.wave.contains(&r)).map(Buffer::bytes)
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

//! A model under a budget, as its runs and its owner see it: the pager behind a lock, and the budget, which changes at any moment.
//!
//! Whoever holds the pager computes; others wait for it. The budget has a lock of its own that is held for moments only, so a new limit
//! can be set while a forward pass is under way: it comes into force before the next step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::backing::Backing;
use super::budget::{Budget, too_small};
use super::device::Device;
use super::hybrid::Assistant;
use super::latch::Latch;
use super::pager::Pager;
use super::staged::Staged;
use super::{GpuOptions, Placement};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::experts::{Catalogue, Layout};
use crate::model::Paging;
use crate::reading::Source;

/// The pager and the budget it works under. Lock order: pager, then budget, then status.
pub(super) struct Paged {
    catalogue: Arc<Catalogue>,
    placement: Placement,
    source: Arc<Source>,
    pager: Mutex<Pager>,
    budget: Mutex<Budget>,
    /// How things stood after the last pass.
    status: Mutex<Paging>,
}

/// Most bytes of staging.
const STAGING: u64 = 64 << 20;

/// The best way of bringing records that the device has.
fn backing(device: &Device, source: &Arc<Source>, catalogue: &Catalogue, options: &GpuOptions) -> Result<Box<dyn Backing>> {
    #[cfg(any(target_os = "linux", target_os = "android", windows))]
    if options.import
        && let Some(imported) = super::import::Imported::new(device, source)?
    {
        return Ok(Box::new(imported));
    }
    let piece = catalogue.pools().iter().map(|p| p.bytes).max().unwrap_or(0).max(16);
    let routes = catalogue.pools().iter().map(|p| u64::from(p.routes)).max().unwrap_or(0);
    Ok(Box::new(Staged::new(device, source, piece, routes.min(STAGING / piece).max(1))?))
}

impl Paged {
    /// With the fewest slots, until [`settle`](Self::settle) knows what the weights take.
    pub(super) fn new(device: &Device, bundle: &Arc<Bundle>, options: &GpuOptions) -> Result<Paged> {
        let catalogue = Arc::new(bundle.catalogue());
        let source = match options.host_budget {
            None => Source::file(bundle, options.reading),
            Some(budget) => Source::with_memory(bundle, options.reading, budget, options.policy)?,
        };
        let backing = backing(device, &source, &catalogue, options)?;
        let assistant = (options.placement == Placement::Hybrid).then(Assistant::new).transpose()?;
        let mut pager = Pager::new(device, bundle.clone(), catalogue.clone(), options.policy, backing, assistant)?;
        let fixed = Latch::BYTES + pager.overhead();
        let budget = Budget { limit: u64::MAX, pending: None, fixed, runs: 0, binding: device.binding, policy: options.policy };
        pager.cut(device, budget.layout(&catalogue, budget.least(&catalogue), 0)?)?;
        let (pager, budget) = (Mutex::new(pager), Mutex::new(budget));
        Ok(Paged { catalogue, placement: options.placement, source, pager, budget, status: Mutex::default() })
    }

    /// Counts the dense weights, now that they are on the device, and cuts the rest of the budget into slots.
    pub(super) fn settle(&self, device: &Device, limit: u64, weights: u64) -> Result<()> {
        let mut pager = self.lock();
        let mut budget = self.budget();
        budget.fixed += weights;
        budget.limit = limit;
        let layout = self.layout(&budget, limit, 0)?;
        pager.cut(device, layout)?;
        self.note(&pager, &budget);
        Ok(())
    }

    fn layout(&self, budget: &Budget, limit: u64, more: u64) -> Result<Layout> {
        let layout = budget.layout(&self.catalogue, limit, more)?;
        let slots: u64 = layout.regions.iter().map(|r| u64::from(r.slots)).sum();
        if self.placement == Placement::Resident && slots < self.catalogue.records() as u64 {
            return Err(too_small(limit, budget.taken() + more + self.catalogue.bytes()));
        }
        Ok(layout)
    }

    /// The pager, when nobody else computes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Pager> {
        self.pager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new limit waits to come into force.
    pub(super) fn is_pending(&self) -> bool {
        self.budget().pending.is_some()
    }

    /// Brings a new limit into force. Nothing may be recorded that uses slots.
    pub(super) fn apply(&self, device: &Device, pager: &mut Pager) -> Result<()> {
        self.enforce(device, pager, &mut self.budget())
    }

    fn enforce(&self, device: &Device, pager: &mut Pager, budget: &mut Budget) -> Result<()> {
        let Some(limit) = budget.pending.take() else { return Ok(()) };
        let layout = self.layout(budget, limit, 0)?;
        budget.limit = limit;
        pager.cut(device, layout)?;
        self.note(pager, budget);
        Ok(())
    }

    /// Sets a new limit, in force at once or before the next step of the pass that is under way.
    pub(super) fn set(&self, device: &Device, limit: u64) -> Result<()> {
        {
            let mut budget = self.budget();
            self.layout(&budget, limit, 0)?;
            budget.pending = Some(limit);
        }
        self.catch_up(device)
    }

    /// Uses the pager in passing.
    pub(super) fn with<T>(&self, device: &Device, f: impl FnOnce(&mut Pager) -> Result<T>) -> Result<T> {
        let result = f(&mut self.lock());
        self.catch_up(device)?;
        result
    }

    /// Applies a limit that nobody else will: for whoever has set one, and whoever gives the pager back.
    pub(super) fn catch_up(&self, device: &Device) -> Result<()> {
        while self.is_pending() {
            let mut pager = match self.pager.try_lock() {
                Ok(pager) => pager,
                Err(TryLockError::Poisoned(e)) => e.into_inner(),
                // Whoever holds it looks again when giving it back.
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            self.apply(device, &mut pager)?;
        }
        Ok(())
    }

    /// Takes `bytes` for a run off the budget; slots make room.
    pub(super) fn reserve(&self, device: &Device, bytes: u64) -> Result<()> {
        self.with(device, |pager| {
            let mut budget = self.budget();
            // From here on no limit can be set that does not count this run.
            self.enforce(device, pager, &mut budget)?;
            if budget.taken() + bytes + pager.layout().bytes() > budget.limit {
                let layout = self.layout(&budget, budget.limit, bytes)?;
                pager.cut(device, layout)?;
            }
            budget.runs += bytes;
            self.note(pager, &budget);
            Ok(())
        })
    }

    /// A run is over. The next one may take its bytes; slots grow again when the budget is set.
    pub(super) fn give_back(&self, bytes: u64) {
        self.budget().runs -= bytes;
    }

    /// Remembers how things stand.
    pub(super) fn note_pass(&self, pager: &Pager) {
        self.note(pager, &self.budget());
    }

    fn note(&self, pager: &Pager, budget: &Budget) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *status = Paging {
            budget: budget.limit,
            slots: pager.layout().bytes(),
            experts: self.catalogue.bytes(),
            counts: pager.tier.counts(),
            bytes_read: self.source.bytes_read(),
            host: self.source.counts(),
            computed: pager.assistant.as_ref().map_or(0, |a| a.computed),
            stall: pager.stall,
            ..Paging::default()
        };
    }

    /// How it fares.
    pub(super) fn paging(&self, device: &Device) -> Paging {
        let budget = self.budget();
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Paging {
            least: budget.least(&self.catalogue),
            fixed: budget.taken(),
            synchronisations: device.meter.synchronisations.get(),
            submissions: device.meter.submissions.get(),
            bytes_returned: device.meter.bytes_returned.get(),
            ..status
        }
    }
}

//! Experts under a budget: who is in which slot, and bringing those that are missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backing::{Backing, Load};
use super::device::Device;
use super::hybrid::Assistant;
use super::slabs::{Slabs, too_large};
use super::table::Table;
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::experts::{Catalogue, Heat, Layout, Policy, RecordId, Slot, Tier};

/// Marks a route without an expert, as in `route`.
pub(super) const NOBODY: u32 = u32::MAX;

/// The slots of a device and the book about them. Whoever holds it may submit work that uses slots.
pub(super) struct Pager {
    bundle: Arc<Bundle>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) tier: Tier,
    /// Takes some of what is missing, where that was asked for.
    pub(super) assistant: Option<Assistant>,
    pub(super) table: Table,
    backing: Box<dyn Backing>,
    layout: Layout,
    /// `None` until the first cut, and after one that failed.
    slabs: Option<Slabs>,
    /// Nobody has been in the slots since they were cut.
    fresh: bool,
    /// Grows with every cut: what was bound to older slots is void.
    generation: u64,
    /// Records that a submission under way computes, pinned.
    flying: Option<(wgpu::SubmissionIndex, Vec<RecordId>)>,
    pub(super) stall: Duration,
}

impl Pager {
    /// Without slots.
    pub(super) fn new(
        device: &Device,
        bundle: Arc<Bundle>,
        catalogue: Arc<Catalogue>,
        policy: Policy,
        backing: Box<dyn Backing>,
        assistant: Option<Assistant>,
    ) -> Result<Pager> {
        for (pool, records) in bundle.plan().pools.iter().zip(catalogue.pools()) {
            if records.bytes > device.binding {
                return Err(too_large(device, &pool.name, records.bytes));
            }
        }
        let table = Table::new(device, &bundle, &catalogue)?;
        let layout = Layout { regions: Vec::new() };
        let tier = Tier::new(catalogue.clone(), &layout, policy);
        Ok(Pager {
            bundle,
            catalogue,
            tier,
            assistant,
            table,
            backing,
            layout,
            slabs: None,
            fresh: true,
            generation: 0,
            flying: None,
            stall: Duration::ZERO,
        })
    }

    /// Bytes that the budget pays for beside slots.
    pub(super) fn overhead(&self) -> u64 {
        self.table.buffer.size() + self.backing.bytes()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Cuts slots anew, empty. What they took before is given back first.
    ///
    /// # Errors
    /// When the device has no room; there are no slots then until a cut succeeds.
    pub(super) fn cut(&mut self, device: &Device, layout: Layout) -> Result<()> {
        device.wait()?;
        self.flying = None;
        self.slabs = None;
        self.fresh = true;
        self.generation += 1;
        self.tier.clear(&layout);
        self.table.clear();
        self.table.flush(device);
        self.layout = layout;
        let bytes: Vec<u64> = self.layout.regions.iter().map(|r| u64::from(r.slots) * r.slot_bytes).collect();
        self.backing.cut(device, &bytes)?;
        self.slabs = Some(Slabs::paged(&self.bundle, &self.layout, self.backing.regions(), &self.table)?);
        Ok(())
    }

    /// The slots and the number of their cut.
    ///
    /// # Errors
    /// When the last cut failed and failed again.
    pub(super) fn slabs(&mut self, device: &Device) -> Result<(&Slabs, u64)> {
        if self.slabs.is_none() {
            self.cut(device, self.layout.clone())?;
        }
        let slabs = self.slabs.as_ref().ok_or_else(|| Error::Device("there are no slots for experts".into()))?;
        Ok((slabs, self.generation))
    }

    /// Whether all records are in slots.
    pub(super) fn complete(&self) -> bool {
        self.tier.is_complete()
    }

    /// Whether every region holds what one token needs at a step: so many records of each pool.
    pub(super) fn holds(&self, routes: &[u32]) -> bool {
        self.layout.regions.iter().all(|r| r.pools.iter().all(|&p| routes[p] <= r.slots))
    }

    /// A forward pass begins.
    pub(super) fn begin(&mut self, device: &Device) -> Result<()> {
        self.land(device)?;
        self.tier.begin_pass();
        if std::mem::take(&mut self.fresh) {
            self.fill(device);
        }
        Ok(())
    }

    /// Fills empty slots: with everything where there is room for it, else with what was used before, the hottest first.
    fn fill(&mut self, device: &Device) {
        let slots: u64 = self.layout.regions.iter().map(|r| u64::from(r.slots)).sum();
        let everything = slots == self.catalogue.records() as u64;
        let all = (0..self.catalogue.records()).map(|r| RecordId(u32::try_from(r).unwrap_or(u32::MAX)));
        let hottest = if everything { all.collect() } else { self.tier.heat().hottest(&self.catalogue) };
        let mut admitted = Vec::new();
        for r in hottest {
            if self.tier.slot(r).is_none() && self.tier.has_room(r) {
                admitted.extend(self.admit(&[r], 1));
            }
        }
        // What cannot be read is asked for again by whoever needs it, who then says why not.
        let _ = self.bring(device, &admitted);
        admitted.iter().for_each(|&(r, _)| self.tier.unpin(r));
    }

    /// The records behind the experts that a step chose, ascending, each once. Entries that are [`NOBODY`] stand for none.
    pub(super) fn records(&self, step: usize, ids: &[u32]) -> Result<Vec<RecordId>> {
        let pool = self.catalogue.steps()[step].unwrap_or_default();
        let plan = &self.bundle.plan().pools[pool];
        let chosen = || ids.iter().copied().filter(|&e| e != NOBODY);
        if chosen().any(|e| e >= plan.experts()) {
            return Err(Error::Device("the GPU chose experts that do not exist".into()));
        }
        let mut records: Vec<RecordId> = chosen().filter_map(|e| Some(self.catalogue.id(pool, plan.record_of(e)?))).collect();
        records.sort_unstable();
        records.dedup();
        Ok(records)
    }

    /// Slots for as many of `records`, none of which is in, as there is room for, `most` at the most; pinned.
    pub(super) fn admit(&mut self, records: &[RecordId], most: usize) -> Vec<(RecordId, Slot)> {
        let mut admitted = Vec::new();
        for &r in records.iter().take(most) {
            let Some((slot, gone)) = self.tier.admit(r) else { break };
            if let Some(gone) = gone {
                self.table.set(gone, None);
            }
            admitted.push((r, slot));
        }
        admitted
    }

    /// Reads records into their slots.
    ///
    /// # Errors
    /// When one cannot be read; none of them is in a slot then.
    pub(super) fn bring(&mut self, device: &Device, admitted: &[(RecordId, Slot)]) -> Result<()> {
        // Whoever left is gone for good before his slot is written.
        self.table.flush(device);
        let mut loads = Vec::new();
        for &(r, slot) in admitted {
            let (pool, record) = self.catalogue.locate(r);
            let at = u64::from(slot.number) * self.catalogue.pools()[pool].bytes;
            loads.push(Load { pool, record, region: slot.region, at, bytes: self.bundle.record_layout(pool).bytes });
        }
        let brought = self.backing.load(device, &loads);
        for &(r, slot) in admitted {
            match brought {
                Ok(()) => self.table.set(r, Some(slot.number)),
                Err(_) => self.tier.remove(r),
            }
        }
        self.table.flush(device);
        brought
    }

    /// A single token chose `ids` at `step`, and all are there.
    pub(super) fn note(&mut self, step: usize, ids: &[u32]) -> Result<()> {
        let records = self.records(step, ids)?;
        self.tier.want(step, &records);
        records.iter().for_each(|&r| self.tier.unpin(r));
        Ok(())
    }

    /// A single token chose `ids` at `step`, and some are missing: brings them, but for those that were computed `elsewhere`, and shows them
    /// in the table's second half.
    pub(super) fn fetch(&mut self, device: &Device, step: usize, ids: &[u32], elsewhere: &[RecordId]) -> Result<()> {
        let begun = Instant::now();
        let records = self.records(step, ids)?;
        let mut missing = self.tier.want(step, &records);
        missing.retain(|r| !elsewhere.contains(r));
        let admitted = self.admit(&missing, missing.len());
        let brought = match admitted.len() == missing.len() {
            true => self.bring(device, &admitted),
            false => {
                admitted.iter().for_each(|&(r, _)| self.tier.remove(r));
                Err(Error::Device("there are fewer slots than a token needs".into()))
            }
        };
        records.iter().for_each(|&r| self.tier.unpin(r));
        brought?;
        self.table.show(missing.iter().copied());
        self.table.flush(device);
        let time = begun.elapsed();
        self.stall += time;
        let bytes = missing.iter().map(|&r| self.catalogue.pools()[self.catalogue.locate(r).0].bytes).sum();
        if let Some(assistant) = self.assistant.as_mut().filter(|_| bytes > 0) {
            assistant.brought(time, bytes);
        }
        Ok(())
    }

    /// A submission computes these pinned records; what flew before has landed.
    pub(super) fn fly(&mut self, device: &Device, submission: wgpu::SubmissionIndex, records: Vec<RecordId>) -> Result<()> {
        self.land(device)?;
        self.flying = Some((submission, records));
        Ok(())
    }

    /// Waits for what is flying; its records may leave.
    pub(super) fn land(&mut self, device: &Device) -> Result<()> {
        let Some((submission, records)) = self.flying.take() else { return Ok(()) };
        records.iter().for_each(|&r| self.tier.unpin(r));
        device.wait_for(submission)
    }

    /// What was used how often, as JSON for the bundle with this fingerprint.
    pub(super) fn heat(&self, fingerprint: &str) -> String {
        self.tier.heat().save(&self.catalogue, fingerprint)
    }

    /// Starts from saved heat: the hottest records come with the next pass, as long as there are empty slots.
    pub(super) fn set_heat(&mut self, json: &str, fingerprint: &str) -> Result<()> {
        self.tier.set_heat(Heat::load(json, &self.catalogue, fingerprint).map_err(Error::Input)?);
        self.fresh = true;
        Ok(())
    }

    /// How many records fly.
    pub(super) fn flying(&self) -> usize {
        self.flying.as_ref().map_or(0, |(_, records)| records.len())
    }

    /// Slots of the region that serves `step`.
    pub(super) fn slots_of(&self, step: usize) -> usize {
        let pool = self.catalogue.steps()[step];
        let region = self.layout.regions.iter().find(|r| pool.is_some_and(|p| r.pools.contains(&p)));
        region.map_or(0, |r| r.slots as usize)
    }
}

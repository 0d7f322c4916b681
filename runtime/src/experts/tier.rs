//! The book of one memory: which record is in which slot, who must stay, who leaves.

use std::sync::Arc;

use super::mixture::{Lesson, Mixture};
use super::{Catalogue, Facts, Heat, Layout, Moment, Policy, RecordId};

/// A slot of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The region.
    pub region: usize,
    /// Number of the slot in it.
    pub number: u32,
}

/// How often a tier had what was wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Records that were wanted and there.
    pub hits: u64,
    /// Records that were wanted and had to be brought.
    pub misses: u64,
}

impl Counts {
    /// Share of wanted records that were there; `None` before any was wanted.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

#[derive(Debug)]
struct Bay {
    slots: Vec<Option<RecordId>>,
    free: Vec<u32>,
}

/// One memory's slots under a budget.
#[derive(Debug)]
pub struct Tier {
    catalogue: Arc<Catalogue>,
    policy: Policy,
    heat: Heat,
    mixture: Mixture,
    now: Moment,
    bays: Vec<Bay>,
    /// Region of each pool.
    region_of: Vec<usize>,
    /// Slot of each record, inside its pool's region.
    place: Vec<Option<u32>>,
    /// Records that must stay for now.
    pinned: Vec<bool>,
    /// The last pass that a record was expected in.
    expected: Vec<Option<u64>>,
    counts: Counts,
}

impl Tier {
    /// An empty tier.
    pub fn new(catalogue: Arc<Catalogue>, layout: &Layout, policy: Policy) -> Tier {
        let n = catalogue.records();
        let mut tier = Tier {
            heat: Heat::cold(&catalogue),
            mixture: Mixture::new(),
            place: vec![None; n],
            pinned: vec![false; n],
            expected: vec![None; n],
            region_of: vec![0; catalogue.pools().len()],
            bays: Vec::new(),
            now: Moment::default(),
            counts: Counts::default(),
            policy,
            catalogue,
        };
        tier.clear(layout);
        tier
    }

    /// Empties all slots and cuts them anew. Heat and counts stay.
    pub fn clear(&mut self, layout: &Layout) {
        self.place.fill(None);
        self.pinned.fill(false);
        self.bays =
            layout.regions.iter().map(|r| Bay { slots: vec![None; r.slots as usize], free: (0..r.slots).rev().collect() }).collect();
        for (i, region) in layout.regions.iter().enumerate() {
            region.pools.iter().for_each(|&p| self.region_of[p] = i);
        }
    }

    /// Gives each region as many slots as `layout`, which has the same regions; returns who had to leave. Slots with the highest numbers go
    /// or come, so a record may find itself in another slot: only for memories where a slot's number means nothing.
    pub fn resize(&mut self, layout: &Layout) -> Vec<RecordId> {
        let mut gone = Vec::new();
        for (region, to) in layout.regions.iter().enumerate() {
            let to = to.slots as usize;
            while self.held(region).count() > to {
                match self.victim(region) {
                    Some(r) => gone.push(r),
                    None => break,
                }
                if let Some(&r) = gone.last() {
                    self.remove(r);
                }
            }
            let held: Vec<RecordId> = self.held(region).collect();
            let slots = to.max(held.len());
            let bay = &mut self.bays[region];
            bay.slots = held.iter().copied().map(Some).chain(std::iter::repeat(None)).take(slots).collect();
            bay.free = (held.len()..slots).rev().map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect();
            for (n, r) in held.iter().enumerate() {
                self.place[r.index()] = u32::try_from(n).ok();
            }
        }
        gone
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Slots of a region.
    pub fn slots(&self, region: usize) -> u32 {
        u32::try_from(self.bays[region].slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether every record is in.
    pub fn is_complete(&self) -> bool {
        self.bays.iter().map(|b| b.slots.len() - b.free.len()).sum::<usize>() == self.catalogue.records()
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        let bytes = |p: usize| self.catalogue.pools()[p].bytes;
        let of_region = |i: usize| self.region_of.iter().position(|&r| r == i).map_or(0, bytes);
        self.bays.iter().enumerate().map(|(i, b)| b.slots.len() as u64 * of_region(i)).sum()
    }

    /// Where a record is, if it is in.
    pub fn slot(&self, record: RecordId) -> Option<Slot> {
        let number = self.place[record.index()]?;
        Some(Slot { region: self.region(record), number })
    }

    fn region(&self, record: RecordId) -> usize {
        self.region_of[self.catalogue.locate(record).0]
    }

    /// Records in a region's slots.
    pub fn held(&self, region: usize) -> impl Iterator<Item = RecordId> {
        self.bays[region].slots.iter().flatten().copied()
    }

    /// How often what was wanted was there.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was used how often.
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Starts from what was learned before.
    pub fn set_heat(&mut self, heat: Heat) {
        self.heat = heat;
    }

    /// The pass and step under way.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// A forward pass begins.
    pub fn begin_pass(&mut self) {
        self.now = Moment { pass: self.now.pass + 1, step: 0 };
    }

    /// Step `step` uses `records`, each named once: those that are in are pinned, the others returned, to be [admitted](Self::admit).
    pub fn want(&mut self, step: usize, records: &[RecordId]) -> Vec<RecordId> {
        self.now.step = step;
        self.observe(records);
        let mut missing = Vec::new();
        for &r in records {
            self.expected[r.index()] = None;
            if self.place[r.index()].is_some() {
                self.counts.hits += 1;
                self.pinned[r.index()] = true;
            } else {
                self.counts.misses += 1;
                missing.push(r);
            }
        }
        missing
    }

    /// Learns from which records of their pool were used.
    fn observe(&mut self, used: &[RecordId]) {
        let Some(first) = used.first() else { return };
        let pool = &self.catalogue.pools()[self.catalogue.locate(*first).0];
        let mut lesson = Lesson::default();
        for r in (pool.first..pool.first + pool.records).map(RecordId) {
            let used = used.contains(&r);
            self.mixture.observe(&mut lesson, self.heat.shares(r), pool.even(), used);
            self.heat.note(r, used, self.now);
        }
        self.mixture.learn(&lesson);
    }

    /// Notes that a router expects these records to be used later in this pass.
    pub fn expect(&mut self, records: impl IntoIterator<Item = RecordId>) {
        for r in records {
            self.expected[r.index()] = Some(self.now.pass);
        }
    }

    /// Whether a record that is not in could come in without anyone leaving.
    pub fn has_room(&self, record: RecordId) -> bool {
        !self.bays[self.region(record)].free.is_empty()
    }

    /// Gives a record that is not in a slot, pinned, and says who left it. `None` when all slots are pinned.
    pub fn admit(&mut self, record: RecordId) -> Option<(Slot, Option<RecordId>)> {
        let gone = if self.has_room(record) { None } else { Some(self.victim(self.region(record))?) };
        self.seat(record, gone)
    }

    /// The same for a record that is only [expected](Self::expect): nobody leaves for it who is expected too.
    pub fn admit_expected(&mut self, record: RecordId) -> Option<(Slot, Option<RecordId>)> {
        let victim = || self.victim(self.region(record)).filter(|&r| !self.facts(r).expected);
        let gone = if self.has_room(record) { None } else { Some(victim()?) };
        self.seat(record, gone)
    }

    fn seat(&mut self, record: RecordId, gone: Option<RecordId>) -> Option<(Slot, Option<RecordId>)> {
        let region = self.region(record);
        if let Some(r) = gone {
            self.remove(r);
        }
        let number = self.bays[region].free.pop()?;
        self.bays[region].slots[number as usize] = Some(record);
        self.place[record.index()] = Some(number);
        self.pinned[record.index()] = true;
        Some((Slot { region, number }, gone))
    }

    /// A record that is in must stay.
    pub fn pin(&mut self, record: RecordId) {
        self.pinned[record.index()] = true;
    }

    /// A record may leave again.
    pub fn unpin(&mut self, record: RecordId) {
        self.pinned[record.index()] = false;
    }

    /// Empties a record's slot: it could not be brought.
    pub fn remove(&mut self, record: RecordId) {
        let region = self.region(record);
        self.pinned[record.index()] = false;
        if let Some(number) = self.place[record.index()].take() {
            self.bays[region].slots[number as usize] = None;
            self.bays[region].free.push(number);
        }
    }

    /// Who leaves a region next; ties go to the lower slot.
    fn victim(&self, region: usize) -> Option<RecordId> {
        let mut worst: Option<(f64, RecordId)> = None;
        for r in self.held(region).filter(|r| !self.pinned[r.index()]) {
            let rank = self.policy.rank(&self.facts(r));
            if worst.is_none_or(|(w, _)| rank > w) {
                worst = Some((rank, r));
            }
        }
        worst.map(|(_, r)| r)
    }

    fn facts(&self, r: RecordId) -> Facts {
        let pool = self.catalogue.locate(r).0;
        let (records, steps) = (&self.catalogue.pools()[pool], self.catalogue.steps().len());
        // The step under way has what it wants pinned: for everybody else of its pool the turn is over.
        let steps_until = 1 + self.catalogue.steps_until(pool, (self.now.step + 1) % steps);
        Facts {
            steps_until,
            steps,
            turns: records.turns,
            share: self.heat.share(r),
            chance: self.mixture.chance(self.heat.shares(r), records.even()),
            last: self.heat.last(r),
            expected: self.expected[r.index()] == Some(self.now.pass) && self.now.step + steps_until < steps,
        }
    }
}

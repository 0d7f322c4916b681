//! A budget cut into regions: sets of equal slots that some pools share.

use super::{Catalogue, Policy};

/// Who competes for slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All pools whose records have one size: the hottest layers take most.
    Shared,
    /// Each pool for itself.
    PerPool,
}

impl Sharing {
    /// The better one for a policy under a budget.
    ///
    /// Steps use pools in a cycle, so the longest unused record is the one that is needed soonest: a shared [`Policy::Lru`] with less room
    /// than one token's demand has evicted every record just before its next use and hits exactly 0 %. Slots of their own cure that,
    /// where there is one for each pool.
    pub fn best(policy: Policy, catalogue: &Catalogue, budget: u64) -> Sharing {
        let cliff = policy == Policy::Lru && budget < catalogue.token_bytes();
        let curable = || Layout::new(catalogue, budget, Sharing::PerPool, u64::MAX).is_ok();
        if cliff && curable() { Sharing::PerPool } else { Sharing::Shared }
    }
}

/// Equal slots and the pools that may use them.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Pools, in the plan's order.
    pub pools: Vec<usize>,
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// How many.
    pub slots: u32,
}

/// How the bytes of a tier are cut. Every pool belongs to exactly one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// The regions.
    pub regions: Vec<Region>,
}

/// Pools that will share a region, before it has slots.
struct Group {
    pools: Vec<usize>,
    bytes: u64,
    records: u64,
    /// Slots it cannot do without: one token's routes at one step.
    least: u64,
    /// Slots it may have at most.
    most: u64,
}

impl Group {
    fn new(catalogue: &Catalogue, pools: Vec<usize>, region_bytes: u64) -> Group {
        let of = |p: &usize| &catalogue.pools()[*p];
        let bytes = pools.first().map_or(1, |p| of(p).bytes);
        let records = pools.iter().map(|p| u64::from(of(p).records)).sum();
        let least = pools.iter().map(|p| u64::from(of(p).routes)).max().unwrap_or(0);
        Group { most: (region_bytes / bytes).min(records), pools, bytes, records, least }
    }

    /// Slots that hold `share` out of [`SHARES`] of the group's records.
    fn slots(&self, share: u64) -> u64 {
        (self.records * share / SHARES).clamp(self.least.min(self.most), self.most)
    }
}

/// Resolution of the search for the share of records that a budget holds.
const SHARES: u64 = 1 << 20;

impl Layout {
    /// Cuts `budget` bytes so that each region holds the same share of its pools' records; a shared one at least one token's routes.
    /// A region spans at most `region_bytes`: where that is too little for all pools of a size to share one region, it is as many as needed.
    ///
    /// # Errors
    /// The smallest budget that would do.
    pub fn new(catalogue: &Catalogue, budget: u64, sharing: Sharing, region_bytes: u64) -> Result<Layout, u64> {
        // Each region has a least of its own: where that is too much, there must be fewer.
        let mut hint = budget;
        let groups = loop {
            let groups = groups(catalogue, hint, sharing, region_bytes);
            let least = groups.iter().map(|g| g.slots(0) * g.bytes).sum::<u64>();
            match least <= budget {
                true => break groups,
                false if hint == 0 => return Err(least),
                false => hint /= 2,
            }
        };
        let bytes = |share: u64| groups.iter().map(|g| g.slots(share) * g.bytes).sum::<u64>();
        let (mut low, mut high) = (0, SHARES);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if bytes(middle) <= budget { low = middle } else { high = middle - 1 }
        }
        let mut rest = budget - bytes(low);
        let region = |g: &Group| {
            let slots = g.slots(low);
            // What rounding left over.
            let more = (rest / g.bytes).min(g.most - slots.min(g.most));
            rest -= more * g.bytes;
            Region { pools: g.pools.clone(), slot_bytes: g.bytes, slots: u32::try_from(slots + more).unwrap_or(u32::MAX) }
        };
        Ok(Layout { regions: groups.iter().map(region).collect() })
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|r| u64::from(r.slots) * r.slot_bytes).sum()
    }
}

fn groups(catalogue: &Catalogue, budget: u64, sharing: Sharing, region_bytes: u64) -> Vec<Group> {
    let used = |p: &usize| catalogue.pools()[*p].records > 0;
    if sharing == Sharing::PerPool {
        // Here a step's records may come in turns.
        let group = |p: usize| Group { least: 1, ..Group::new(catalogue, vec![p], region_bytes) };
        return (0..catalogue.pools().len()).filter(used).map(group).collect();
    }
    let mut sizes: Vec<u64> = catalogue.pools().iter().map(|p| p.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let share = (budget as f64 / catalogue.bytes().max(1) as f64).min(1.0);
    let mut out = Vec::new();
    for size in sizes {
        let pools: Vec<usize> = (0..catalogue.pools().len()).filter(used).filter(|&p| catalogue.pools()[p].bytes == size).collect();
        if pools.is_empty() {
            continue;
        }
        // Neighbouring pools share a region as long as their share of the budget fits it.
        let wanted: f64 = pools.iter().map(|&p| share * f64::from(catalogue.pools()[p].records) * size as f64).sum();
        let per_region = ((pools.len() as f64 * region_bytes as f64 / wanted.max(1.0)) as usize).clamp(1, pools.len());
        out.extend(pools.chunks(per_region).map(|chunk| Group::new(catalogue, chunk.to_vec(), region_bytes)));
    }
    out
}

//! What a policy makes of recorded routing, beside the best that was possible.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Catalogue, Counts, Layout, Pass, Policy, RecordId, Tier};

/// The outcome of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replay {
    /// Hits and misses.
    pub counts: Counts,
    /// Bytes that were brought.
    pub bytes: u64,
}

/// Runs passes through an empty tier. A step that uses more records than its region has slots brings them in turns.
pub fn replay(catalogue: &Arc<Catalogue>, layout: &Layout, policy: Policy, passes: &[Pass]) -> Replay {
    let mut tier = Tier::new(catalogue.clone(), layout, policy);
    let mut bytes = 0;
    for pass in passes {
        tier.begin_pass();
        for (step, wanted) in wanted(catalogue, pass) {
            let mut here: Vec<RecordId> = wanted.clone();
            for r in tier.want(step, &wanted) {
                here.retain(|h| *h != r);
                if tier.admit(r).is_none() {
                    // The ones before are done with.
                    here.drain(..).for_each(|h| tier.unpin(h));
                    tier.admit(r);
                }
                here.push(r);
                bytes += catalogue.pools()[catalogue.locate(r).0].bytes;
            }
            wanted.iter().for_each(|r| tier.unpin(*r));
        }
    }
    Replay { counts: tier.counts(), bytes }
}

/// The same with knowledge of the future: whoever is used again latest leaves (Bélády's rule, optimal for equal slots). Takes time in
/// proportion to the uses, times the logarithm of the slots.
pub fn optimum(catalogue: &Catalogue, layout: &Layout, passes: &[Pass]) -> Replay {
    let uses: Vec<Vec<RecordId>> = passes.iter().flat_map(|p| wanted(catalogue, p).map(|(_, w)| w)).collect();
    // For each use the time of the same record's next one.
    let mut soonest = vec![usize::MAX; catalogue.records()];
    let mut next: Vec<Vec<usize>> = Vec::with_capacity(uses.len());
    for (t, wanted) in uses.iter().enumerate().rev() {
        next.push(wanted.iter().map(|r| std::mem::replace(&mut soonest[r.index()], t)).collect());
    }
    let mut regions: Vec<BTreeSet<(usize, RecordId)>> = vec![BTreeSet::new(); layout.regions.len()];
    let mut out = Replay::default();
    for (t, (wanted, next)) in uses.iter().zip(next.iter().rev()).enumerate() {
        for (r, next) in wanted.iter().zip(next) {
            let pool = catalogue.locate(*r).0;
            let Some(region) = layout.regions.iter().position(|l| l.pools.contains(&pool)) else { continue };
            // Who is in, by the time of the next use.
            let held = &mut regions[region];
            if held.remove(&(t, *r)) {
                out.counts.hits += 1;
            } else {
                out.counts.misses += 1;
                out.bytes += layout.regions[region].slot_bytes;
                if held.len() == layout.regions[region].slots as usize {
                    let latest = held.iter().rev().find(|(_, h)| !wanted.contains(h)).or(held.last()).copied();
                    latest.map(|h| held.remove(&h));
                }
            }
            held.insert((*next, *r));
        }
    }
    out
}

/// The steps of a pass that are routed, and the records they use.
fn wanted<'a>(catalogue: &'a Catalogue, pass: &'a Pass) -> impl Iterator<Item = (usize, Vec<RecordId>)> {
    let steps = pass.0.iter().zip(catalogue.steps()).enumerate();
    let ids = |records: &[u32], pool: usize| records.iter().map(|&r| catalogue.id(pool, r)).collect::<Vec<_>>();
    steps.filter_map(move |(i, (records, pool))| Some((i, ids(records, (*pool)?)))).filter(|(_, w)| !w.is_empty())
}

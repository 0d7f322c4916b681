//! What a policy makes of recorded routing, beside the best that was possible.

use std::collections::HashMap;
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

/// The same with knowledge of the future: whoever is used again latest leaves (Bélády's rule, optimal for equal slots).
pub fn optimum(catalogue: &Catalogue, layout: &Layout, passes: &[Pass]) -> Replay {
    let uses: Vec<Vec<RecordId>> = passes.iter().flat_map(|p| wanted(catalogue, p).map(|(_, w)| w)).collect();
    // For each record the times of its uses, latest first.
    let mut times: HashMap<RecordId, Vec<usize>> = HashMap::new();
    for (t, wanted) in uses.iter().enumerate().rev() {
        wanted.iter().for_each(|r| times.entry(*r).or_default().push(t));
    }
    let mut out = Replay::default();
    for region in &layout.regions {
        let slots = region.slots as usize;
        let mut held: Vec<RecordId> = Vec::new();
        let mut left = times.clone();
        for wanted in &uses {
            let here = |r: &&RecordId| region.pools.contains(&catalogue.locate(**r).0);
            let wanted: Vec<RecordId> = wanted.iter().filter(here).copied().collect();
            for r in &wanted {
                left.entry(*r).or_default().pop();
            }
            let next = |r: &RecordId| left.get(r).and_then(|t| t.last()).copied().unwrap_or(usize::MAX);
            for r in &wanted {
                if held.contains(r) {
                    out.counts.hits += 1;
                    continue;
                }
                out.counts.misses += 1;
                out.bytes += region.slot_bytes;
                if held.len() == slots {
                    let latest = held.iter().enumerate().max_by_key(|(_, h)| (!wanted.contains(h), next(h)));
                    if let Some(i) = latest.map(|(i, _)| i) {
                        held.swap_remove(i);
                    }
                }
                held.push(*r);
            }
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

//! Codecs by heat: experts that are used often keep more bits.
//!
//! A pool has one codec, so a pool with experts of both kinds becomes two, and a step that routes to it two steps with the same router. Each
//! pool knows the experts of its kind only; to the other's a token skips. The second step must see the stream as it was before the first,
//! which a step before both puts aside.

use std::collections::BTreeMap;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::plan::{Feature, Ffn, Join, Plan, Routed, Score, Step, Stream, Work};
use hotset::profile::Profile;

use super::{Origin, smaller};
use crate::failure::{Failure, Result};

/// Experts that are used often, and what they are stored in.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) codec: Codec,
    /// For each pool, by record.
    pub(crate) records: Vec<Vec<bool>>,
}

/// The records that are used most, as many as take `share` of the bytes of all that may differ in codec.
///
/// # Errors
/// When the profile is of another bundle, or no expert may differ.
pub(crate) fn hottest(bundle: &Bundle, profile: &Profile, share: f64, codec: Codec) -> Result<Hot> {
    profile.check(bundle.manifest())?;
    let plan = bundle.plan();
    let mut uses: Vec<Vec<u64>> = plan.pools.iter().map(|p| vec![0; p.records as usize]).collect();
    for step in profile.texts.values().flat_map(|usage| &usage.steps) {
        let pool = step.pool as usize;
        for (expert, n) in (0..).zip(&step.selections) {
            if let Some(record) = plan.pools[pool].record_of(expert) {
                uses[pool][record as usize] += n;
            }
        }
    }
    let bytes = |pool: usize| bundle.record_layout(pool).bytes as u64;
    let candidates = (0..plan.pools.len()).filter(|&p| may_split(plan, p));
    let mut ranked: Vec<(u64, usize, usize)> = candidates.flat_map(|p| uses[p].iter().enumerate().map(move |(r, &n)| (n, p, r))).collect();
    if ranked.is_empty() {
        return Err(Failure::new("this model has no feed-forward experts that could differ in codec; leave --hot out"));
    }
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut room = (ranked.iter().map(|r| bytes(r.1)).sum::<u64>() as f64 * share) as u64;
    let mut records: Vec<Vec<bool>> = uses.iter().map(|u| vec![false; u.len()]).collect();
    for (_, pool, record) in ranked {
        if bytes(pool) > room {
            break;
        }
        room -= bytes(pool);
        records[pool][record] = true;
    }
    Ok(Hot { codec, records })
}

/// Whether the steps that use a pool compute the same as two steps that share its experts. Attention does not, nor does a router that
/// remembers, which would remember twice.
fn may_split(plan: &Plan, pool: usize) -> bool {
    let mut steps = plan.steps.iter().filter_map(|s| Some((s, s.routed.as_ref().filter(|r| r.pool as usize == pool)?))).peekable();
    let alone = |(step, routed): (&Step, &Routed)| {
        let remembers = matches!(routed.router.score, Score::Recurrent { .. });
        let sees_result = matches!(routed.router.feature, Feature::Stream(s) if s == step.to && s != step.from);
        matches!(step.work, Work::Ffn(_)) && !remembers && !sees_result
    };
    steps.peek().is_some() && steps.all(alone)
}

impl Hot {
    /// Splits pools and steps of `plan`, a bundle's, and the origins of its records with them.
    ///
    /// # Errors
    /// When no pool would have two codecs: then there is nothing to split.
    pub(super) fn split(&self, bundle: &Bundle, plan: &mut Plan, origins: &mut Vec<Vec<Origin>>) -> Result<()> {
        let old = bundle.plan();
        // For each pool that is split the one with its cold records.
        let mut cold: BTreeMap<u32, u32> = BTreeMap::new();
        for (i, hot) in self.records.iter().enumerate() {
            let codec = smaller(old.pools[i].codec, self.codec);
            if codec == plan.pools[i].codec || !hot.contains(&true) {
                continue;
            }
            if hot.contains(&false) {
                let second = half(old, i, hot, false, plan.pools[i].codec);
                cold.insert(index(i), index(plan.pools.len()));
                plan.pools.push(second);
                origins.push(origins[i].iter().zip(hot).filter(|(_, hot)| !**hot).map(|(o, _)| *o).collect());
                origins[i] = origins[i].iter().zip(hot).filter(|(_, hot)| **hot).map(|(o, _)| *o).collect();
                plan.pools[i] = half(old, i, hot, true, codec);
            }
            plan.pools[i].codec = codec;
        }
        if plan.pools.iter().all(|p| p.codec == plan.pools[0].codec) {
            return Err(Failure::new(format!(
                "all experts would be stored in {}; choose another --hot or --hot-codec",
                plan.pools[0].codec
            )));
        }
        if !cold.is_empty() {
            plan.streams.push(Stream { width: plan.width, embedding: None });
            let aside = index(plan.streams.len());
            plan.steps = std::mem::take(&mut plan.steps).into_iter().flat_map(|step| steps(step, &cold, aside)).collect();
        }
        Ok(())
    }
}

/// The hot or the cold half of a pool.
fn half(plan: &Plan, pool: usize, hot: &[bool], which: bool, codec: Codec) -> hotset::plan::Pool {
    let whole = &plan.pools[pool];
    let place =
        |record: u32| (hot[record as usize] == which).then(|| index(hot[..record as usize].iter().filter(|h| **h == which).count()));
    hotset::plan::Pool {
        name: if which { whole.name.clone() } else { format!("{}.cold", whole.name) },
        expert: whole.expert.clone(),
        codec,
        records: index(hot.iter().filter(|h| **h == which).count()),
        alias: Some((0..whole.experts()).map(|id| whole.record_of(id).and_then(place)).collect()),
    }
}

/// What becomes of a step when some pools are split: itself, or one that puts the stream aside and one for each half.
fn steps(step: Step, cold: &BTreeMap<u32, u32>, aside: u32) -> Vec<Step> {
    let Some((routed, &pool)) = step.routed.as_ref().and_then(|r| Some((r, cold.get(&r.pool)?))) else {
        return vec![step];
    };
    let mut router = routed.router.clone();
    let mut second = Step { from: step.from, norm: step.norm.clone(), ..Step::new(format!("{}.cold", step.name), None, Work::Identity) };
    let mut steps = Vec::new();
    if step.from == step.to {
        let copy = Step::new(format!("{}.aside", step.name), None, Work::Identity);
        steps.push(Step { from: step.from, to: aside, join: Join::Replace, ..copy });
        if router.feature == Feature::Stream(step.from) {
            router.feature = Feature::Stream(aside);
        }
        second.from = aside;
    }
    second.work = Work::Ffn(Ffn { shared: None });
    second.routed = Some(Routed { pool, router });
    (second.scale, second.to) = (step.scale, step.to);
    steps.extend([step, second]);
    steps
}

fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

//! Which experts stay: so many bytes of them, each pool as many as it deserves, the best ones first.
//!
//! What is kept or dropped is a record: experts that share one stay or go together, experts that compute nothing cost nothing and stay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Losses, PoolLoss, Profile, Usage};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::plan::{Plan, Rule, Semantics};

/// What makes an expert worth keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// How many tokens choose it.
    #[default]
    Frequency,
    /// The sum of its weights.
    GateMass,
    /// The mean over the tokens that choose it of weight × length of its output.
    ///
    /// Source: "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (Lasby et al., 2025).
    Saliency,
    /// The same, but the sum over those tokens: what the expert adds to the model altogether.
    Contribution,
}

/// How to choose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeepOptions {
    /// Share of the experts' bytes that may stay, above 0 and at most 1.
    pub keep: f64,
    /// What makes an expert worth keeping.
    pub criterion: Criterion,
    /// How the others are dropped.
    pub semantics: Semantics,
    /// Only what these texts use counts; all if there are none.
    pub texts: Vec<String>,
    /// Whether every pool keeps the same share.
    pub uniform: bool,
}

/// The experts that stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// For each pool of the plan the ids that stay, in the order in which their records are to be stored: hot ones first.
    pub pools: Vec<Vec<u32>>,
    /// How the others are dropped.
    pub semantics: Semantics,
}

/// The records of a pool, best first.
struct Ranked {
    /// For each record that some expert has: the expert ids, and their score.
    records: Vec<(Vec<u32>, f64)>,
    /// Expert ids without a record.
    free: Vec<u32>,
    /// Fewest records that the pool's routers can do with.
    least: usize,
    /// Bytes of a record.
    bytes: u64,
}

impl Profile {
    /// The experts of `bundle` to keep.
    ///
    /// How many records each pool keeps follows from the [measured losses](Losses), where the profile has some: they are dropped one by one
    /// where a byte costs least. Otherwise from use: they are dropped where the smallest part of a pool's score goes with a byte.
    ///
    /// # Errors
    /// When the profile is not of this bundle or does not have what the criterion needs, or a router would have fewer experts to choose
    /// from than it takes; the message names the smallest share that works.
    pub fn keep(&self, bundle: &Bundle, options: &KeepOptions) -> Result<Kept> {
        self.check(bundle.manifest())?;
        self.keep_of(bundle.plan(), |pool| bundle.record_layout(pool).bytes as u64, options)
    }

    /// The same for a plan whose pool `p` has records of `bytes(p)`.
    pub(super) fn keep_of(&self, plan: &Plan, bytes: impl Fn(usize) -> u64, options: &KeepOptions) -> Result<Kept> {
        if !(options.keep > 0.0 && options.keep <= 1.0) {
            return Err(Error::Input(format!("keeping {} of the experts is impossible; choose more than 0, up to 1", options.keep)));
        }
        let ranked = self.rank(plan, bytes, options)?;
        let total: u64 = ranked.iter().map(|r| r.records.len() as u64 * r.bytes).sum();
        let limit = (total as f64 * options.keep) as u64;
        let least: u64 = ranked.iter().map(|r| r.least as u64 * r.bytes).sum();
        if least > limit {
            let share = (least as f64 / total as f64 * 1000.0).ceil() / 1000.0;
            return Err(Error::Input(format!(
                "keeping {} of the experts would leave a router fewer than it selects; keep at least {share}",
                options.keep
            )));
        }
        let counts = match options.uniform {
            true => ranked.iter().map(|r| ((r.records.len() as f64 * options.keep) as usize).max(r.least)).collect(),
            false => counts(&ranked, self.losses.as_ref(), limit),
        };
        Ok(Kept::of(&ranked, &counts, options.semantics))
    }

    /// The experts to keep when every pool keeps so many records, or as many as its routers need.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_counts(&self, bundle: &Bundle, options: &KeepOptions, counts: &[usize]) -> Result<Kept> {
        self.check(bundle.manifest())?;
        let ranked = self.rank(bundle.plan(), |pool| bundle.record_layout(pool).bytes as u64, options)?;
        let counts: Vec<usize> = ranked.iter().zip(counts).map(|(r, &n)| n.clamp(r.least, r.records.len())).collect();
        Ok(Kept::of(&ranked, &counts, options.semantics))
    }

    /// The records of every pool, best first.
    fn rank(&self, plan: &Plan, bytes: impl Fn(usize) -> u64, options: &KeepOptions) -> Result<Vec<Ranked>> {
        if let Some(name) = options.texts.iter().find(|t| !self.texts.contains_key(*t)) {
            let known: Vec<&str> = self.texts.keys().map(String::as_str).collect();
            return Err(Error::Input(format!("the profile has no text {name:?}; it has {}", known.join(", "))));
        }
        let wanted = |(name, usage)| (options.texts.is_empty() || options.texts.contains(name)).then_some(usage);
        let usages: Vec<&Usage> = self.texts.iter().filter_map(wanted).collect();
        if usages.iter().all(|u| u.tokens == 0) {
            return Err(Error::Input("the profile has seen no text; there is nothing to choose experts by".into()));
        }
        (0..plan.pools.len()).map(|pool| rank(plan, pool, bytes(pool), &usages, options.criterion)).collect()
    }
}

/// One pool's records by score.
fn rank(plan: &Plan, pool: usize, bytes: u64, usages: &[&Usage], criterion: Criterion) -> Result<Ranked> {
    let experts = plan.pools[pool].experts();
    let mut scores = vec![0.0; experts as usize];
    let mut tokens = vec![0u64; experts as usize];
    for step in usages.iter().flat_map(|u| &u.steps).filter(|s| s.pool as usize == pool) {
        step.selections.iter().zip(&mut tokens).for_each(|(n, sum)| *sum += n);
        let add = |of: &[f64], scores: &mut [f64]| of.iter().zip(scores).for_each(|(v, sum)| *sum += v);
        match (criterion, &step.saliency) {
            (Criterion::Frequency, _) => step.selections.iter().zip(&mut scores).for_each(|(&n, sum)| *sum += n as f64),
            (Criterion::GateMass, _) => add(&step.gate, &mut scores),
            (Criterion::Saliency | Criterion::Contribution, Some(saliency)) => add(saliency, &mut scores),
            (Criterion::Saliency | Criterion::Contribution, None) => {
                return Err(Error::Input("the profile has no lengths of outputs; make one on the CPU, or choose another criterion".into()));
            }
        }
    }
    if criterion == Criterion::Saliency {
        scores.iter_mut().zip(tokens).for_each(|(s, n)| *s /= n.max(1) as f64);
    }
    let mut records: BTreeMap<u32, (Vec<u32>, f64)> = BTreeMap::new();
    let mut free = Vec::new();
    for (id, score) in (0..experts).zip(scores) {
        match plan.pools[pool].record_of(id) {
            None => free.push(id),
            Some(record) => {
                let entry = records.entry(record).or_default();
                entry.0.push(id);
                entry.1 += score;
            }
        }
    }
    let mut records: Vec<(Vec<u32>, f64)> = records.into_values().collect();
    records.sort_by(|a, b| b.1.total_cmp(&a.1));
    // Experts without a record may be pruned already, so they do not count.
    let least = least(plan, pool).min(records.len());
    Ok(Ranked { records, free, least, bytes })
}

/// Experts that the routers of a pool need at least.
fn least(plan: &Plan, pool: usize) -> usize {
    let routers = plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| r.pool as usize == pool);
    let needs = routers.map(|r| match r.router.select.rule {
        Rule::TopK { k } => k,
        Rule::Rank { rank } => rank + 1,
        Rule::Certain { least, .. } => least,
        Rule::TopP { .. } | Rule::NonZero => 1,
    });
    needs.max().unwrap_or(0) as usize
}

/// Records that each pool keeps so that all of them take at most `limit` bytes.
fn counts(ranked: &[Ranked], losses: Option<&Losses>, limit: u64) -> Vec<usize> {
    let costs: Vec<Vec<f64>> = ranked.iter().enumerate().map(|(pool, r)| costs(pool, r, losses)).collect();
    let mut counts: Vec<usize> = ranked.iter().map(|r| r.records.len()).collect();
    let mut bytes: u64 = ranked.iter().map(|r| r.records.len() as u64 * r.bytes).sum();
    while bytes > limit {
        // The cheapest way on from here, per byte: over as many records of one pool as make it cheapest.
        let best = (0..ranked.len()).flat_map(|p| (ranked[p].least..counts[p]).map(move |n| (p, n)));
        let price = |&(p, n): &(usize, usize)| (costs[p][n] - costs[p][counts[p]]) / ((counts[p] - n) as f64 * ranked[p].bytes as f64);
        let Some((pool, n)) = best.min_by(|a, b| price(a).total_cmp(&price(b)).then(b.1.cmp(&a.1))) else { break };
        // No further than needed.
        let needed = (bytes - limit).div_ceil(ranked[pool].bytes) as usize;
        let n = n.max(counts[pool].saturating_sub(needed)).max(ranked[pool].least);
        bytes -= (counts[pool] - n) as u64 * ranked[pool].bytes;
        counts[pool] = n;
    }
    counts
}

/// What it costs a pool to keep only `n` records, for each `n` from 0 to all; never less for fewer.
fn costs(pool: usize, ranked: &Ranked, losses: Option<&Losses>) -> Vec<f64> {
    let measured = losses.and_then(|l| Some((l.base, l.pools.iter().find(|p| p.pool as usize == pool)?)));
    let records = ranked.records.len();
    let mut costs: Vec<f64> = match measured {
        Some((base, loss)) => (0..=records).map(|n| between(loss, base, records, n)).collect(),
        None => {
            let total: f64 = ranked.records.iter().map(|r| r.1).sum();
            let kept = ranked.records.iter().scan(0.0, |sum, r| {
                *sum += r.1;
                Some(*sum)
            });
            let kept = std::iter::once(0.0).chain(kept);
            kept.map(|sum| if total > 0.0 { 1.0 - sum / total } else { 0.0 }).collect()
        }
    };
    for n in (0..records).rev() {
        costs[n] = costs[n].max(costs[n + 1]);
    }
    costs
}

/// The loss above `base` with `n` of all records, between the measured points on a straight line.
fn between(loss: &PoolLoss, base: f64, records: usize, n: usize) -> f64 {
    let mut points: Vec<(f64, f64)> = loss.points.iter().map(|&(n, l)| (f64::from(n), l - base)).collect();
    points.push((records as f64, 0.0));
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = n as f64;
    let after = points.partition_point(|p| p.0 < n).min(points.len() - 1);
    // Below the first point the line through the first two goes on.
    let (a, b) = if after == 0 { (0, 1.min(points.len() - 1)) } else { (after - 1, after) };
    let ((x0, y0), (x1, y1)) = (points[a], points[b]);
    if x1 > x0 { y0 + (y1 - y0) * (n - x0) / (x1 - x0) } else { y1 }
}

impl Kept {
    /// Everything, in the order of the profile's use: nothing is dropped, hot records come first.
    pub fn all(plan: &Plan) -> Kept {
        Kept { pools: plan.pools.iter().map(|p| (0..p.experts()).collect()).collect(), semantics: Semantics::default() }
    }

    fn of(ranked: &[Ranked], counts: &[usize], semantics: Semantics) -> Kept {
        let pool = |(r, &n): (&Ranked, &usize)| r.records[..n].iter().flat_map(|r| &r.0).chain(&r.free).copied().collect();
        Kept { pools: ranked.iter().zip(counts).map(pool).collect(), semantics }
    }

    /// The ids of each pool that are dropped, ascending.
    pub(crate) fn dropped(&self, plan: &Plan) -> Vec<Vec<u32>> {
        let missing = |(pool, kept): (&crate::plan::Pool, &Vec<u32>)| {
            let mut stays = vec![false; pool.experts() as usize];
            kept.iter().for_each(|&e| stays[e as usize] = true);
            (0..pool.experts()).filter(|&e| !stays[e as usize]).collect()
        };
        plan.pools.iter().zip(&self.pools).map(missing).collect()
    }

    /// Checks that these are experts of `plan`, each once.
    ///
    /// # Errors
    /// When they are not.
    pub(crate) fn validate(&self, plan: &Plan) -> Result<()> {
        if self.pools.len() != plan.pools.len() {
            return Err(Error::Input(format!("experts of {} pools are kept; the model has {}", self.pools.len(), plan.pools.len())));
        }
        for (pool, kept) in plan.pools.iter().zip(&self.pools) {
            let mut seen = vec![false; pool.experts() as usize];
            for &e in kept {
                if seen.get(e as usize).is_none_or(|s| *s) {
                    return Err(Error::Input(format!("expert {e} of pool {:?} is kept twice or does not exist", pool.name)));
                }
                seen[e as usize] = true;
            }
        }
        Ok(())
    }
}

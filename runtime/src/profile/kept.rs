//! Which experts stay: so many bytes of them, each pool as many as it deserves, the best ones first.
//!
//! What is kept or dropped is a record: experts that share one stay or go together, experts that compute nothing cost nothing and stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Profile, StepUse, Usage};
use crate::bundle::Bundle;
use crate::error::{self, Error};
use crate::plan::{Plan, Rule, Semantics};

/// What makes an expert worth keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// How many tokens choose it.
    Frequency,
    /// The sum of its weights.
    GateMass,
    /// The mean over the tokens that choose it of weight × length of its output.
    ///
    /// Source: "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (Lasby et al., 2025).
    Saliency,
    /// The same, but the sum over those tokens: what the expert adds to the stream altogether.
    #[default]
    Contribution,
}

impl Criterion {
    /// All of them, those first that are usually best.
    pub const ALL: [Criterion; 4] = [Criterion::Contribution, Criterion::GateMass, Criterion::Frequency, Criterion::Saliency];
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Criterion::Frequency => "frequency",
            Criterion::GateMass => "gate-mass",
            Criterion::Saliency => "saliency",
            Criterion::Contribution => "contribution",
        })
    }
}

impl FromStr for Criterion {
    type Err = String;

    fn from_str(s: &str) -> Result<Criterion, String> {
        let found = Criterion::ALL.into_iter().find(|c| c.to_string() == s);
        found.ok_or_else(|| format!("{s:?} is no criterion; there are contribution, gate-mass, frequency and saliency"))
    }
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
    /// The records that some expert has.
    records: Vec<Scored>,
    /// Expert ids without a record.
    free: Vec<u32>,
    /// Fewest records that the pool's routers can do with.
    least: usize,
    /// Bytes of a record.
    bytes: u64,
}

/// A record and what it is worth.
#[derive(Default)]
struct Scored {
    /// The experts that share it.
    ids: Vec<u32>,
    /// By the criterion: decides within the pool.
    score: f64,
    /// What its experts add to the stream, or how often they are chosen where that is all that is known: decides between pools.
    worth: f64,
}

impl Profile {
    /// Whether every text has what a criterion needs.
    pub fn has(&self, criterion: Criterion) -> bool {
        match criterion {
            Criterion::Frequency | Criterion::GateMass => true,
            Criterion::Saliency | Criterion::Contribution => self.texts.values().flat_map(|u| &u.steps).all(|s| s.saliency.is_some()),
        }
    }

    /// The experts of `bundle` to keep.
    ///
    /// Pools keep what they deserve: records go where least is added to the stream for a byte.
    ///
    /// # Errors
    /// When the profile is not of this bundle or does not have what the criterion needs, or a router would have fewer experts to choose
    /// from than it takes; the message names the smallest share that works.
    pub fn keep(&self, bundle: &Bundle, options: &KeepOptions) -> error::Result<Kept> {
        self.check(bundle.manifest())?;
        self.keep_in(bundle.plan(), |pool| bundle.record_layout(pool).bytes as u64, options)
    }

    /// The same for a plan whose pool `p` has records of `bytes(p)`. That it is the profile's has been checked.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_in(&self, plan: &Plan, bytes: impl Fn(usize) -> u64, options: &KeepOptions) -> error::Result<Kept> {
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
            true => {
                let counts: Vec<usize> = ranked.iter().map(|r| ((r.records.len() as f64 * options.keep) as usize).max(r.least)).collect();
                let bytes: u64 = ranked.iter().zip(&counts).map(|(r, &n)| n as u64 * r.bytes).sum();
                if bytes > limit {
                    return Err(Error::Input(format!(
                        "keeping {} of every layer leaves some router fewer experts than it selects; keep more, or not every layer alike",
                        options.keep
                    )));
                }
                counts
            }
            false => counts(&ranked, limit),
        };
        Ok(Kept::of(&ranked, &counts, options.semantics))
    }

    /// For each pool of `plan`, how many tokens of these texts (of all, if there are none) chose each expert.
    pub fn used(&self, plan: &Plan, texts: &[String]) -> Vec<Vec<f64>> {
        let mut used: Vec<Vec<f64>> = plan.pools.iter().map(|p| vec![0.0; p.experts() as usize]).collect();
        let wanted = self.texts.iter().filter(|(name, _)| texts.is_empty() || texts.contains(name));
        for step in wanted.flat_map(|(_, usage)| &usage.steps) {
            let sums = used.get_mut(step.pool as usize).into_iter().flatten();
            sums.zip(&step.selections).for_each(|(sum, &n)| *sum += n as f64);
        }
        used
    }

    /// The records of every pool, best first.
    fn rank(&self, plan: &Plan, bytes: impl Fn(usize) -> u64, options: &KeepOptions) -> error::Result<Vec<Ranked>> {
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
fn rank(plan: &Plan, pool: usize, bytes: u64, usages: &[&Usage], criterion: Criterion) -> error::Result<Ranked> {
    let experts = plan.pools[pool].experts();
    let steps = || usages.iter().flat_map(|u| &u.steps).filter(|s| s.pool as usize == pool);
    let sum = |of: &dyn Fn(&StepUse, usize) -> f64| (0..experts as usize).map(|e| steps().map(|s| of(s, e)).sum()).collect::<Vec<f64>>();
    let chosen = sum(&|s, e| s.selections[e] as f64);
    let added = usages.iter().flat_map(|u| &u.steps).all(|s| s.saliency.is_some());
    let added = added.then(|| sum(&|s, e| s.saliency.as_ref().map_or(0.0, |s| s[e])));
    let scores = match (criterion, &added) {
        (Criterion::Frequency, _) => chosen.clone(),
        (Criterion::GateMass, _) => sum(&|s, e| s.gate[e]),
        (Criterion::Contribution, Some(added)) => added.clone(),
        (Criterion::Saliency, Some(added)) => added.iter().zip(&chosen).map(|(a, n)| a / n.max(1.0)).collect(),
        (Criterion::Saliency | Criterion::Contribution, None) => {
            return Err(Error::Input("the profile has no lengths of outputs; make one on the CPU, or choose another criterion".into()));
        }
    };
    let worth = added.unwrap_or(chosen);
    let mut records: BTreeMap<u32, Scored> = BTreeMap::new();
    let mut free = Vec::new();
    for id in 0..experts {
        match plan.pools[pool].record_of(id) {
            None => free.push(id),
            Some(record) => {
                let entry = records.entry(record).or_default();
                entry.ids.push(id);
                entry.score += scores[id as usize];
                entry.worth += worth[id as usize];
            }
        }
    }
    let mut records: Vec<Scored> = records.into_values().collect();
    records.sort_by(|a, b| b.score.total_cmp(&a.score));
    // Experts without a record may be pruned already, so they do not count.
    let least = least(plan, pool).min(records.len());
    Ok(Ranked { records, free, least, bytes })
}

/// Experts that the routers of a pool need at least. Where they choose within groups a token may still find fewer in its groups.
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
fn counts(ranked: &[Ranked], limit: u64) -> Vec<usize> {
    // For each pool and number of records, what those that come first add to the stream.
    let added = |r: &Ranked| {
        let sums = r.records.iter().scan(0.0, |sum, record| {
            *sum += record.worth;
            Some(*sum)
        });
        std::iter::once(0.0).chain(sums).collect()
    };
    let added: Vec<Vec<f64>> = ranked.iter().map(added).collect();
    let mut counts: Vec<usize> = ranked.iter().map(|r| r.records.len()).collect();
    let mut bytes: u64 = ranked.iter().map(|r| r.records.len() as u64 * r.bytes).sum();
    while bytes > limit {
        // The cheapest way on from here, per byte: over as many records of one pool as make it cheapest.
        let ways = (0..ranked.len()).flat_map(|p| (ranked[p].least..counts[p]).map(move |n| (p, n)));
        let price = |&(p, n): &(usize, usize)| (added[p][counts[p]] - added[p][n]) / ((counts[p] - n) as f64 * ranked[p].bytes as f64);
        let Some((pool, n)) = ways.min_by(|a, b| price(a).total_cmp(&price(b)).then(b.1.cmp(&a.1))) else { break };
        // No further than needed.
        let needed = (bytes - limit).div_ceil(ranked[pool].bytes) as usize;
        let n = n.max(counts[pool].saturating_sub(needed)).max(ranked[pool].least);
        bytes -= (counts[pool] - n) as u64 * ranked[pool].bytes;
        counts[pool] = n;
    }
    counts
}

impl Kept {
    /// Everything, in the order of ids.
    pub fn all(plan: &Plan) -> Kept {
        Kept { pools: plan.pools.iter().map(|p| (0..p.experts()).collect()).collect(), semantics: Semantics::default() }
    }

    /// Bytes of the records that stay.
    pub fn bytes(&self, bundle: &Bundle) -> u64 {
        let pool = |(pool, kept): (usize, &Vec<u32>)| {
            let records: BTreeSet<u32> = kept.iter().filter_map(|&e| bundle.plan().pools[pool].record_of(e)).collect();
            records.len() as u64 * bundle.record_layout(pool).bytes as u64
        };
        self.pools.iter().enumerate().map(pool).sum()
    }

    fn of(ranked: &[Ranked], counts: &[usize], semantics: Semantics) -> Kept {
        let pool = |(r, &n): (&Ranked, &usize)| r.records[..n].iter().flat_map(|r| &r.ids).chain(&r.free).copied().collect();
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
    pub(crate) fn validate(&self, plan: &Plan) -> error::Result<()> {
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

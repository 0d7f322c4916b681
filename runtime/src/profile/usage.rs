//! Counts of what was used.

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Work};

/// Lengths of the chunks whose distinct experts are counted, in tokens.
pub const CHUNKS: [u32; 2] = [8, 64];

/// What some tokens used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Tokens read.
    pub tokens: u64,
    /// The routed steps in the plan's order.
    pub steps: Vec<StepUse>,
}

/// What they used at one step. `E` = expert ids of the step's pool, `E'` = those of the next routed step, of the last step 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepUse {
    /// Index into the plan's steps.
    pub step: u32,
    /// The step's name.
    pub name: String,
    /// Index into the plan's pools.
    pub pool: u32,
    /// Whether the step is attention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention: bool,
    /// Tokens that chose each expert, `[E]`.
    pub selections: Vec<u64>,
    /// Sum of the weights that each expert got, `[E]`.
    pub gate: Vec<f64>,
    /// Sum over the tokens of weight × length of the expert's output, `[E]`; absent where the device did not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saliency: Option<Vec<f64>>,
    /// Tokens that chose an expert here and one at the next routed step, `[E, E']`, row-major.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<u64>,
    /// How many different experts consecutive tokens use, for each of [`CHUNKS`].
    pub chunks: Vec<ChunkUse>,
}

/// Different experts that chunks of consecutive tokens use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkUse {
    /// Tokens of a chunk.
    pub tokens: u32,
    /// Chunks that were complete.
    pub chunks: u64,
    /// The sum of their different experts.
    pub experts: u64,
}

impl Usage {
    /// Nothing used yet of `plan`.
    pub fn new(plan: &Plan) -> Usage {
        let routed = |(step, s): (usize, &crate::plan::Step)| {
            let pool = s.routed.as_ref()?.pool;
            let attention = matches!(s.work, Work::Attention(_));
            Some((u32::try_from(step).unwrap_or(u32::MAX), s.name.clone(), pool, attention, plan.pools[pool as usize].experts() as usize))
        };
        let steps: Vec<_> = plan.steps.iter().enumerate().filter_map(routed).collect();
        let next = steps.iter().skip(1).map(|s| s.4).chain([0]);
        let step = |((step, name, pool, attention, experts), next): (_, usize)| StepUse {
            step,
            name,
            pool,
            attention,
            selections: vec![0; experts],
            gate: vec![0.0; experts],
            saliency: Some(vec![0.0; experts]),
            next: vec![0; experts * next],
            chunks: CHUNKS.map(|tokens| ChunkUse { tokens, ..ChunkUse::default() }).to_vec(),
        };
        Usage { tokens: 0, steps: steps.clone().into_iter().zip(next).map(step).collect() }
    }

    /// Adds what other tokens used.
    ///
    /// # Errors
    /// When they are of another model.
    pub fn add(&mut self, other: &Usage) -> Result<(), String> {
        let same = |(a, b): (&StepUse, &StepUse)| {
            (a.step, a.pool, a.selections.len(), a.next.len()) == (b.step, b.pool, b.selections.len(), b.next.len())
                && a.chunks.iter().map(|c| c.tokens).eq(b.chunks.iter().map(|c| c.tokens))
        };
        if self.steps.len() != other.steps.len() || !self.steps.iter().zip(&other.steps).all(same) {
            return Err("their steps differ".into());
        }
        self.tokens += other.tokens;
        for (a, b) in self.steps.iter_mut().zip(&other.steps) {
            a.selections.iter_mut().zip(&b.selections).for_each(|(a, b)| *a += b);
            a.gate.iter_mut().zip(&b.gate).for_each(|(a, b)| *a += b);
            a.next.iter_mut().zip(&b.next).for_each(|(a, b)| *a += b);
            a.saliency = a.saliency.take().zip(b.saliency.as_ref()).map(|(mut a, b)| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            });
            for (a, b) in a.chunks.iter_mut().zip(&b.chunks) {
                (a.chunks, a.experts) = (a.chunks + b.chunks, a.experts + b.experts);
            }
        }
        Ok(())
    }

    /// How much of what these tokens use most others use most, too: of the more used half of each step's experts, the share that both have.
    /// 1 when nothing is routed.
    pub fn overlap(&self, other: &Usage) -> f64 {
        let (mut common, mut all) = (0, 0);
        for (a, b) in self.steps.iter().zip(&other.steps) {
            let (a, b) = (a.used_most(), b.used_most());
            common += a.iter().filter(|e| b.contains(e)).count();
            all += a.len().max(b.len());
        }
        if all == 0 { 1.0 } else { common as f64 / all as f64 }
    }

    /// Whether the lists have the lengths that they imply for each other, and the numbers are possible.
    pub(super) fn validate(&self) -> Result<(), String> {
        for (i, s) in self.steps.iter().enumerate() {
            let (experts, next) = (s.selections.len(), self.steps.get(i + 1).map_or(0, |n| n.selections.len()));
            let lengths = [s.gate.len(), s.saliency.as_ref().map_or(experts, Vec::len)];
            if experts == 0 || lengths != [experts; 2] || !(s.next.is_empty() || s.next.len() == experts * next) {
                return Err(format!("step {:?} has lists of different lengths", s.name));
            }
            if s.gate.iter().chain(s.saliency.iter().flatten()).any(|v| !v.is_finite()) {
                return Err(format!("step {:?} has a number that is not finite", s.name));
            }
        }
        Ok(())
    }

    /// Whether these are the routed steps of `plan`.
    pub(super) fn fits(&self, plan: &Plan) -> Result<(), String> {
        let want = Usage::new(plan);
        let key = |s: &StepUse| (s.step, s.pool, s.selections.len());
        self.validate()?;
        match self.steps.iter().map(key).eq(want.steps.iter().map(key)) {
            true => Ok(()),
            false => Err("its steps are not those of the plan".into()),
        }
    }
}

impl StepUse {
    /// The more used half of the experts, best first, ties to the lowest id.
    pub fn used_most(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..self.selections.len() as u32).collect();
        ids.sort_by_key(|&e| std::cmp::Reverse(self.selections[e as usize]));
        ids.truncate(self.selections.len().div_ceil(2));
        ids
    }

    /// `exp` of the entropy of the experts' shares: how many experts would be used if all were used alike.
    pub fn effective_experts(&self) -> f64 {
        effective(&self.selections)
    }
}

/// `exp` of the entropy of the shares that `counts` are: their number when all are alike, `k` when always the same `k` are counted.
pub fn effective(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let shares = counts.iter().filter(|n| **n > 0).map(|&n| n as f64 / total);
    (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
}

//! Choosing the next token: what to ask the model for, and what to make of its answer.

use super::sampling::Sampling;
use crate::model::{Best, Candidates, Output, Want};

/// Candidates looked at first when the whole vocabulary is at hand: nearly always enough to decide.
const FIRST_LOOK: usize = 1024;

/// Draws the tokens of one generation.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    /// What the model is asked for: `count` candidates, or, for logits, what is done with them here.
    best: Best,
    draws: u64,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Sampler {
        let inverse_temperature = if sampling.is_greedy() { 1.0 } else { 1.0 / sampling.temperature };
        let count = sampling.candidates().unwrap_or(FIRST_LOOK);
        let best = Best { count, penalised: Vec::new(), penalty: sampling.repeat_penalty, inverse_temperature };
        Sampler { sampling, best, draws: 0 }
    }

    /// What to ask the model for, after the conversation `tokens`.
    pub(super) fn want(&mut self, tokens: &[u32]) -> Want<'_> {
        let penalised = &mut self.best.penalised;
        penalised.clear();
        if self.sampling.repeat_penalty != 1.0 {
            penalised.extend(&tokens[tokens.len().saturating_sub(self.sampling.repeat_last)..]);
            penalised.sort_unstable();
            penalised.dedup();
        }
        if self.sampling.candidates().is_some() { Want::Best(&self.best) } else { Want::Last }
    }

    /// The token drawn from the model's answer; `None` when the answer is not what was asked for.
    pub(super) fn draw(&mut self, output: Output) -> Option<u32> {
        let candidates = match output {
            Output::Best(candidates) => candidates,
            Output::Logits(logits) => self.of_logits(logits),
            Output::Nothing => return None,
        };
        let weights = self.keep(&candidates);
        let mut left = uniform(self.sampling.seed, self.draws) * weights.iter().sum::<f64>();
        self.draws += 1;
        let last = weights.len().checked_sub(1)?;
        let drawn = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        candidates.tokens.get(drawn.unwrap_or(last)).map(|(token, _)| *token)
    }

    /// As many of the likeliest tokens of `logits` `[V]` as decide the draw.
    fn of_logits(&self, mut logits: Vec<f32>) -> Candidates {
        let s = &self.sampling;
        let mut best = self.best.clone();
        best.count = if s.top_k > 0 { s.top_k } else { best.count };
        let candidates = Candidates::select(&mut logits, &best);
        if s.top_k > 0 || self.keep(&candidates).len() < candidates.tokens.len() {
            return candidates;
        }
        // What is kept may reach further: rank them all. The penalty is applied already.
        best.count = logits.len();
        best.penalised.clear();
        Candidates::select(&mut logits, &best)
    }

    /// Steps 3 to 5 of [`Sampling`]: relative probabilities of the candidates that stay, best first.
    fn keep(&self, candidates: &Candidates) -> Vec<f64> {
        let s = &self.sampling;
        let Some(&(_, top)) = candidates.tokens.first() else { return Vec::new() };
        if s.is_greedy() {
            return vec![1.0];
        }
        let inverse = f64::from(self.best.inverse_temperature);
        let take = if s.top_k > 0 { s.top_k } else { candidates.tokens.len() };
        // `libm` instead of the system's: the same on every platform.
        let weight = |logit: f32| libm::exp((f64::from(logit) - f64::from(top)) * inverse);
        let mut weights: Vec<f64> = candidates.tokens.iter().take(take).map(|&(_, l)| weight(l)).collect();
        let total = if s.top_k > 0 { weights.iter().sum() } else { libm::exp(f64::from(candidates.log_total) - f64::from(top) * inverse) };
        if s.top_p < 1.0 {
            let mut mass = 0.0;
            let enough = f64::from(s.top_p) * total;
            let nucleus = weights.iter().position(|w| {
                mass += w;
                mass >= enough
            });
            weights.truncate(nucleus.map_or(weights.len(), |last| last + 1));
        }
        weights.truncate(weights.partition_point(|w| *w >= f64::from(s.min_p)));
        weights
    }
}

/// Number `index` of the sequence that `seed` names, uniform in [0, 1): SplitMix64, by counter.
fn uniform(seed: u64, index: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    // The seed is mixed first: neighbouring seeds would otherwise share most of their sequence.
    let z = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((index + 1).wrapping_mul(GOLDEN)));
    (z >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;

//! Self-contrast: decoding with the difference between two routings of one model.
//!
//! Source: "Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by Self-Contrast" (Shi et al., 2024).

use crate::candidates::FLOOR;
use crate::error::{Error, Result};
use crate::experts::Pass;
use crate::model::{Candidates, Output, Run, Want};
use crate::profile::{Activations, Usage};
use crate::snapshot::{Reader, Writer};

use super::MAX_CONTEXT;

/// What a session does with a second, weaker routing of its model: where routers take the best few experts, the weak one takes only the
/// one of rank `rank`. A token's logit becomes `(1 + beta) · strong − beta · weak` if its strong logit is at least the largest
/// plus `ln alpha`; other tokens are out of the question. Both routings have caches of their own, so memory for caches and the work of a
/// token double.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfContrast {
    /// How much the weak routing counts; 0.5 is usual.
    pub beta: f32,
    /// How likely a token must be beside the likeliest, for the strong routing; above 0, at most 1; 0.1 is usual.
    pub alpha: f32,
    /// The weak routing's expert: 1 is the best.
    pub rank: u32,
}

impl SelfContrast {
    /// # Errors
    /// Names the knob that is out of range.
    pub(super) fn validate(&self) -> Result<()> {
        let ok = |holds: bool, what: &str| if holds { Ok(()) } else { Err(Error::Input(what.to_owned())) };
        ok(self.beta.is_finite() && self.beta >= 0.0, "the self-contrast's beta must be a number from 0 up")?;
        ok(self.alpha > 0.0 && self.alpha <= 1.0, "the self-contrast's alpha must be larger than 0 and at most 1")?;
        ok(self.rank >= 1, "the self-contrast's rank counts from 1, the best expert")
    }

    /// Combines two rows of logits `[V]` into the first.
    fn combine(&self, strong: &mut [f32], weak: &[f32]) {
        let least = strong.iter().copied().fold(f32::NEG_INFINITY, f32::max) + self.alpha.ln();
        for (s, w) in strong.iter_mut().zip(weak) {
            *s = if *s >= least { (1.0 + self.beta) * *s - self.beta * w } else { FLOOR };
        }
    }
}

/// A run of each routing; to the outside they are one.
pub(super) struct ContrastRun {
    contrast: SelfContrast,
    vocab: usize,
    strong: Box<dyn Run>,
    weak: Box<dyn Run>,
    /// What the strong one has read, to bring the weak one to the same place after a failure of either.
    read: Vec<u32>,
}

impl ContrastRun {
    pub(super) fn new(contrast: SelfContrast, vocab: u32, strong: Box<dyn Run>, weak: Box<dyn Run>) -> ContrastRun {
        ContrastRun { contrast, vocab: vocab as usize, strong, weak, read: Vec::new() }
    }

    fn catch_up(&mut self) -> Result<()> {
        if self.weak.position() > self.read.len() {
            self.weak.reset();
        }
        match &self.read[self.weak.position()..] {
            [] => Ok(()),
            missing => self.weak.forward(missing, Want::Nothing).map(drop),
        }
    }
}

impl Run for ContrastRun {
    fn position(&self) -> usize {
        self.strong.position()
    }

    fn reset(&mut self) {
        self.strong.reset();
        self.weak.reset();
        self.read.clear();
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        self.catch_up()?;
        // Candidates are chosen among the combined logits, so both routings give all of theirs.
        let inner = match want {
            Want::Best(_) => Want::Last,
            other => other,
        };
        let weak = self.weak.forward(tokens, inner)?;
        let strong = self.strong.forward(tokens, inner)?;
        self.read.extend_from_slice(tokens);
        let (mut logits, weak) = match (strong, weak) {
            (Output::Logits(strong), Output::Logits(weak)) => (strong, weak),
            (other, _) => return Ok(other),
        };
        logits.chunks_mut(self.vocab).zip(weak.chunks(self.vocab)).for_each(|(s, w)| self.contrast.combine(s, w));
        Ok(match want {
            Want::Best(best) => Output::Best(Candidates::select(&mut logits, best)),
            _ => Output::Logits(logits),
        })
    }

    fn save(&mut self, to: &mut Writer<'_>) -> Result<()> {
        self.catch_up()?;
        to.number(self.read.len() as u64)?;
        to.bytes(bytemuck::cast_slice(&self.read))?;
        self.strong.save(to)?;
        self.weak.save(to)
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<bool> {
        self.reset();
        let mut read = Vec::new();
        for _ in 0..from.number(MAX_CONTEXT as u64)? {
            let mut token = [0];
            from.fill(bytemuck::cast_slice_mut(&mut token))?;
            read.extend(token);
        }
        let same = self.strong.restore(from)? && self.weak.restore(from)? && self.strong.position() == read.len();
        if same {
            self.read = read;
        } else {
            self.reset();
        }
        Ok(same)
    }

    fn record_passes(&mut self) -> Result<()> {
        self.strong.record_passes()
    }

    fn record_use(&mut self) -> Result<()> {
        self.strong.record_use()
    }

    fn take_use(&mut self) -> Option<Usage> {
        self.strong.take_use()
    }

    fn record_activations(&mut self) -> Result<()> {
        self.strong.record_activations()
    }

    fn take_activations(&mut self) -> Option<Activations> {
        self.strong.take_activations()
    }

    fn take_passes(&mut self) -> Vec<Pass> {
        self.strong.take_passes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlikely_tokens_are_out_and_others_move_away_from_the_weak_ones() {
        let contrast = SelfContrast { beta: 0.5, alpha: 0.1, rank: 2 };
        let mut strong = [2.0, 1.0, -3.0];
        contrast.combine(&mut strong, &[1.0, 2.0, 5.0]);
        assert_eq!(strong, [1.5 * 2.0 - 0.5, 1.5 - 1.0, FLOOR]);
    }
}

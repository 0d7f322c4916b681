//! Picking the likeliest tokens out of a row of logits.

use crate::model::{Best, Candidates};

/// The logit of a token that must not be chosen: far below all others, yet finite after penalties.
pub(crate) const FLOOR: f32 = -1e30;

impl Best {
    /// Applies the repetition penalty to `logits` `[V]` in place.
    pub(crate) fn penalise(&self, logits: &mut [f32]) {
        for &token in &self.penalised {
            if let Some(l) = logits.get_mut(token as usize) {
                *l = if *l > 0.0 { *l / self.penalty } else { *l * self.penalty };
            }
        }
    }
}

impl Candidates {
    /// Applies the penalty to `logits` `[V]` in place and keeps the best.
    pub(crate) fn select(logits: &mut [f32], best: &Best) -> Candidates {
        best.penalise(logits);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scaled = |l: f32| f64::from((l - max) * best.inverse_temperature).exp();
        let total: f64 = logits.iter().map(|&l| scaled(l)).sum();
        let mut ids: Vec<u32> = (0..).take(logits.len()).collect();
        let better = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        let count = best.count.clamp(1, ids.len());
        if count < ids.len() {
            ids.select_nth_unstable_by(count - 1, better);
            ids.truncate(count);
        }
        ids.sort_unstable_by(better);
        Candidates {
            tokens: ids.into_iter().map(|t| (t, logits[t as usize])).collect(),
            log_total: max * best.inverse_temperature + total.ln() as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_first_ties_by_id_penalties_applied() {
        let best = Best { count: 3, penalised: vec![1, 4], penalty: 2.0, inverse_temperature: 0.5 };
        let mut logits = [1.0, 4.0, 2.0, 2.0, -1.0];
        let c = Candidates::select(&mut logits, &best);
        assert_eq!(c.tokens, [(1, 2.0), (2, 2.0), (3, 2.0)]);
        let total: f32 = [1.0f32, 2.0, 2.0, 2.0, -2.0].iter().map(|l| (l * 0.5).exp()).sum();
        assert!((c.log_total - total.ln()).abs() < 1e-6);
    }
}

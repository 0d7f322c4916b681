//! Which experts a token uses, and with what weight.

use candle_core::{Device, Result, Tensor};

use crate::training::ops::{linear, softmax};

/// A linear router: the `top_k` experts with the largest logits, weighed by a softmax over those.
pub(crate) struct Router {
    /// One row for each expert `[E, D]`.
    pub(crate) gate: Tensor,
    pub(crate) top_k: usize,
    /// Multiplier of all weights.
    pub(crate) scale: f64,
}

/// The choices of a batch of `n` tokens.
pub(crate) struct Routes {
    /// Weight of every expert, 0 where it was not chosen `[n, E]`.
    pub(crate) weights: Tensor,
    /// 1 where an expert was chosen `[n, E]`.
    pub(crate) chosen: Tensor,
    /// Softmax over all experts `[n, E]`.
    probabilities: Tensor,
}

impl Router {
    /// Routes the tokens `x` `[n, D]`.
    pub(crate) fn route(&self, x: &Tensor) -> Result<Routes> {
        let logits = linear(x, &self.gate)?;
        let chosen = largest(&logits, self.top_k)?;
        let probabilities = softmax(&logits)?;
        let kept = (&probabilities * &chosen)?;
        let weights = (kept.broadcast_div(&kept.sum_keepdim(1)?)? * self.scale)?;
        Ok(Routes { weights, chosen, probabilities })
    }
}

impl Routes {
    /// `E · Σ_e f_e · P_e`, a scalar: `f_e` is the share of tokens that use expert `e`, `P_e` its mean probability among all experts. It is
    /// smallest, `k`, when all experts are used alike, and its gradient moves probability from experts that are used much to the others.
    pub(crate) fn balance(&self) -> Result<Tensor> {
        let experts = self.chosen.dim(1)? as f64;
        (self.chosen.mean(0)? * self.probabilities.mean(0)?)?.sum_all()? * experts
    }
}

/// 1 at the `k` largest values of each row, 0 elsewhere; the lowest index among equals. The choice has no gradient.
fn largest(logits: &Tensor, k: usize) -> Result<Tensor> {
    let (rows, experts) = logits.dims2()?;
    let mut mask = vec![0.0f32; rows * experts];
    for (row, mask) in logits.detach().to_vec2::<f32>()?.iter().zip(mask.chunks_exact_mut(experts)) {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order.iter().take(k).for_each(|&e| mask[e] = 1.0);
    }
    Tensor::from_vec(mask, (rows, experts), &Device::Cpu)
}

//! What a model makes of held-out text: how well it predicts it, and how many experts it uses for it.

use candle_core::Result;
use hotset::plan::Work;
use hotset::profile::effective;

use super::interpreter::Interpreter;
use super::{Batch, Weights, cross_entropy};

/// The outcome on held-out text.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// In nats per token.
    pub(crate) loss: f64,
    /// Tokens that were predicted.
    pub(crate) tokens: usize,
    /// How many experts are in use, see [`effective`]: the mean over routers of attention, if there are any.
    pub(crate) attention: Option<f64>,
    /// The same of feed-forward layers.
    pub(crate) ffn: Option<f64>,
}

/// Measures `model` with `weights` on `batches`.
pub(crate) fn measure(model: &Interpreter, weights: &Weights, batches: &[Batch]) -> Result<Measured> {
    let (mut sum, mut tokens) = (0.0, 0);
    let mut chosen: Vec<(usize, Vec<u64>)> = Vec::new();
    for batch in batches {
        let n = batch.targets.elem_count();
        let pass = model.forward(weights, &batch.inputs)?;
        sum += f64::from(cross_entropy(&pass.logits, &batch.targets)?.to_scalar::<f32>()?) * n as f64;
        tokens += n;
        if chosen.is_empty() {
            chosen = pass.routings.iter().map(|r| (r.step, vec![0; r.chosen.len()])).collect();
        }
        for ((_, total), routing) in chosen.iter_mut().zip(&pass.routings) {
            total.iter_mut().zip(&routing.chosen).for_each(|(t, n)| *t += n);
        }
    }
    let steps = &model.import().plan.steps;
    let mean = |of_attention: bool| {
        let of_kind = |step: usize| matches!(steps[step].work, Work::Attention(_)) == of_attention;
        let each: Vec<f64> = chosen.iter().filter(|(step, _)| of_kind(*step)).map(|(_, counts)| effective(counts)).collect();
        (!each.is_empty()).then(|| each.iter().sum::<f64>() / each.len() as f64)
    };
    Ok(Measured { loss: sum / tokens as f64, tokens, attention: mean(true), ffn: mean(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_numbers() {
        assert!((effective(&[7, 7, 7, 7]) - 4.0).abs() < 1e-12);
        assert!((effective(&[0, 9, 0, 9]) - 2.0).abs() < 1e-12);
        assert!(effective(&[1, 100, 0, 0]) < 1.1);
    }
}

//! How wrong predictions are, in nats per token.

use candle_core::{D, Result, Tensor};

use super::Batch;

/// A language model that can be trained.
pub(crate) trait Model {
    /// Logits `[B·T, V]` of the tokens `[B, T]`, and what is to be made small beside the prediction error, if anything.
    fn forward(&self, tokens: &Tensor) -> Result<(Tensor, Option<Tensor>)>;
}

/// Mean negative log-likelihood of `targets` `[N]` under `logits` `[N, V]`: a scalar.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let targets = targets.to_device(logits.device())?;
    // The largest logit is a constant to the gradient, which does not depend on it.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let chosen = shifted.gather(&targets.unsqueeze(1)?, 1)?;
    (total - chosen)?.mean_all()
}

/// The mean loss over `batches`, in nats per token.
pub(crate) fn held_out(model: &impl Model, batches: &[Batch]) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        let n = batch.targets.elem_count();
        let loss = cross_entropy(&model.forward(&batch.inputs)?.0, &batch.targets)?;
        sum += f64::from(loss.to_scalar::<f32>()?) * n as f64;
        tokens += n;
    }
    Ok(sum / tokens as f64)
}

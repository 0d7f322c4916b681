//! How much each neuron matters to the tokens of each expert.
//!
//! `I[e, n]` is the mean of `|z_n · ∂L/∂z_n|` over the tokens that the router gives to expert `e` first: to first order, how much the loss
//! of such a token changes without neuron `n`.

use candle_core::{D, DType, Result, Tensor, Var};

use super::dense::Dense;
use super::partition::Importance;
use super::shape::Shape;
use crate::training::ops::linear;
use crate::training::{Batch, cross_entropy};

/// Importance in each layer, for routers `gates` `[E, D]`.
pub(super) fn measure(dense: &Dense, shape: &Shape, gates: &[Tensor], batches: &[Batch]) -> Result<Vec<Importance>> {
    let experts = gates.first().map_or(Ok(0), |g| g.dim(0))?;
    let mut sums = vec![vec![vec![0.0f64; shape.hidden]; experts]; gates.len()];
    let mut counts = vec![vec![0.0f64; experts]; gates.len()];
    for batch in batches {
        for (i, (terms, members)) in of_batch(dense, shape, gates, batch)?.iter().enumerate() {
            // [E, n] · [n, N]
            let sum = members.t()?.matmul(terms)?.to_vec2::<f32>()?;
            for (total, row) in sums[i].iter_mut().zip(sum) {
                total.iter_mut().zip(row).for_each(|(t, s)| *t += f64::from(s));
            }
            let count = members.sum(0)?.to_vec1::<f32>()?;
            counts[i].iter_mut().zip(count).for_each(|(t, c)| *t += f64::from(c));
        }
    }
    let mean = |(sums, counts): (Vec<Vec<f64>>, Vec<f64>)| {
        let row = |(sum, count): (Vec<f64>, f64)| sum.iter().map(|s| (s / count.max(1.0)) as f32).collect();
        Importance(sums.into_iter().zip(counts).map(row).collect())
    };
    Ok(sums.into_iter().zip(counts).map(mean).collect())
}

/// For each layer, `|z · ∂L/∂z|` of every token and neuron `[n, N]`, and 1 for the expert that each token is given to first `[n, E]`.
fn of_batch(dense: &Dense, shape: &Shape, gates: &[Tensor], batch: &Batch) -> Result<Vec<(Tensor, Tensor)>> {
    let positions = dense.positions(&batch.inputs)?;
    let mut x = dense.embed(&batch.inputs)?;
    let mut seen = Vec::new();
    for (layer, gate) in dense.layers.iter().zip(gates) {
        let (attended, _) = layer.attend(&x, &positions)?;
        let f = layer.ffn_input(&attended)?;
        let z = layer.ffn.neurons(&f)?;
        // The gradient of what is added to z is the gradient of z.
        let nudge = Var::zeros((z.dim(0)?, shape.hidden), DType::F32, z.device())?;
        x = (attended + layer.ffn.down(&(&z + nudge.as_tensor())?)?)?;
        let logits = linear(&f, gate)?;
        let first = logits.argmax_keepdim(D::Minus1)?;
        let ids = Tensor::arange(0, logits.dim(1)? as u32, logits.device())?;
        seen.push((z, nudge, first.broadcast_eq(&ids.unsqueeze(0)?)?.to_dtype(DType::F32)?));
    }
    let gradients = cross_entropy(&dense.logits(&x)?, &batch.targets)?.backward()?;
    let term = |(z, nudge, members): (Tensor, Var, Tensor)| {
        let gradient = gradients.get(&nudge).ok_or_else(|| candle_core::Error::Msg("a layer does not reach the loss".into()))?;
        Ok(((z * gradient)?.abs()?, members))
    };
    seen.into_iter().map(term).collect()
}

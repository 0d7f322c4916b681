//! What routers know before anything is trained.

use candle_core::{Device, Result, Tensor};

use super::cluster::Clustering;
use super::dense::Dense;
use super::shape::Shape;
use crate::random::Random;
use crate::training::Batch;
use crate::training::ops::linear;

/// How far the sizes of clusters may be from equal.
const JITTER: f64 = 0.4;
/// Standard deviation of a token's logits.
const SPREAD: f64 = 0.5;

/// For each layer, the centres of `experts` clusters of what its feed-forward part reads `[E, D]`, all brought to a length by one factor.
///
/// With centres as they are, logits are so far apart that nearly all weight goes to a token's first expert. A common factor changes no
/// choice; it lets the chosen experts weigh about the same, as they did in the dense model, and leaves a softmax that can learn.
pub(super) fn clustered(dense: &Dense, shape: &Shape, experts: usize, batches: &[Batch], random: &mut Random) -> Result<Vec<Tensor>> {
    let mut streams = batches.iter().map(|b| dense.embed(&b.inputs)).collect::<Result<Vec<_>>>()?;
    let mut gates = Vec::new();
    for layer in &dense.layers {
        let mut inputs = Vec::new();
        for (x, batch) in streams.iter_mut().zip(batches) {
            let (attended, _) = layer.attend(x, &dense.positions(&batch.inputs)?)?;
            let f = layer.ffn_input(&attended)?;
            *x = (attended + layer.ffn.forward(&f)?)?;
            inputs.push(f);
        }
        let f = Tensor::cat(&inputs, 0)?;
        let points = f.flatten_all()?.to_vec1::<f32>()?;
        let centres = Clustering { points: &points, width: shape.width, clusters: experts, jitter: JITTER }.run(random);
        gates.push(balanced(&Tensor::from_vec(centres, (experts, shape.width), &Device::Cpu)?, &f)?);
    }
    Ok(gates)
}

/// `gate` `[E, D]` times the factor that gives the logits of the tokens `f` `[n, D]` their [`SPREAD`].
fn balanced(gate: &Tensor, f: &Tensor) -> Result<Tensor> {
    let logits = linear(f, gate)?;
    let spread = logits.broadcast_sub(&logits.mean_keepdim(1)?)?.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
    // A single expert has no spread, and nothing to weigh.
    if spread > 0.0 { gate * (SPREAD / f64::from(spread)) } else { Ok(gate.clone()) }
}

/// A router that knows nothing: uniform within ±1/√D, as linear layers begin.
pub(super) fn random(shape: &Shape, experts: usize, random: &mut Random) -> Result<Tensor> {
    let bound = 1.0 / (shape.width as f64).sqrt();
    let values: Vec<f32> = (0..experts * shape.width).map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32).collect();
    Tensor::from_vec(values, (experts, shape.width), &Device::Cpu)
}

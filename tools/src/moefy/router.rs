//! What routers know before anything is trained.

use candle_core::{Device, Result, Tensor};

use super::cluster::Clustering;
use super::dense::Dense;
use super::shape::Shape;
use crate::random::Random;
use crate::training::Batch;

/// How far the sizes of clusters may be from equal.
const JITTER: f64 = 0.4;

/// For each layer, the centres of `experts` clusters of what its feed-forward part reads `[E, D]`.
pub(super) fn clustered(dense: &Dense, shape: &Shape, experts: usize, batches: &[Batch], random: &mut Random) -> Result<Vec<Tensor>> {
    let mut streams = batches.iter().map(|b| dense.embed(&b.inputs)).collect::<Result<Vec<_>>>()?;
    let mut gates = Vec::new();
    for layer in &dense.layers {
        let mut points = Vec::new();
        for (x, batch) in streams.iter_mut().zip(batches) {
            let (attended, _) = layer.attend(x, &dense.positions(&batch.inputs)?)?;
            let f = layer.ffn_input(&attended)?;
            points.extend(f.flatten_all()?.to_vec1::<f32>()?);
            *x = (attended + layer.ffn.forward(&f)?)?;
        }
        let clusters = Clustering { points: &points, width: shape.width, clusters: experts, jitter: JITTER }.run(random);
        let gate = Tensor::from_vec(clusters.centres, (experts, shape.width), &Device::Cpu)?;
        let f = Tensor::from_vec(points, ((), shape.width), &Device::Cpu)?;
        let logits = super::ops::linear(&f, &gate)?;
        let centred = logits.broadcast_sub(&logits.mean_keepdim(1)?)?;
        let spread = centred.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
        let p = super::softmax::softmax(&logits)?;
        eprintln!("spread {spread} sizes {:?} mean p {:?} first {:?}", sizes(&clusters.members, experts), p.mean(0)?.to_vec1::<f32>()?, sizes(&logits.argmax(1)?.to_vec1::<u32>()?.iter().map(|&x| x as usize).collect::<Vec<_>>(), experts));
        let want: f64 = std::env::var("SPREAD").ok().and_then(|s| s.parse().ok()).unwrap_or(f64::from(spread));
        gates.push((gate * (want / f64::from(spread)))?);
    }
    Ok(gates)
}

/// A router that knows nothing: uniform within ±1/√D, as linear layers begin.
pub(super) fn random(shape: &Shape, experts: usize, random: &mut Random) -> Result<Tensor> {
    let bound = 1.0 / (shape.width as f64).sqrt();
    let values: Vec<f32> = (0..experts * shape.width).map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32).collect();
    Tensor::from_vec(values, (experts, shape.width), &Device::Cpu)
}

fn sizes(m: &[usize], k: usize) -> Vec<usize> { (0..k).map(|c| m.iter().filter(|&&x| x == c).count()).collect() }

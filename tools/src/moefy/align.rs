//! Moment alignment: each channel of a sub-layer's output gets back the mean and variance it had in the dense model.

use candle_core::{DType, Device, Result, Tensor};

use super::attention::Positions;
use super::decoder::Layer;
use super::dense::Dense;
use super::shape::{Shape, layer};
use super::split::Split;
use crate::training::{Batch, Weights};

/// The streams `[B·T, D]` of both models, as far as they have come.
struct Streams {
    dense: Tensor,
    moe: Tensor,
    positions: Positions,
}

/// The matrices that write a sub-layer's output.
struct Output {
    /// Matrices `[D, ·]`.
    matrices: Vec<String>,
    /// Biases of the routed ones `[D]`; their weights sum to `scale`.
    biases: Vec<String>,
    scale: f64,
}

/// Rescales the outputs of `moe` layer by layer, the first first, and gives experts their biases. `split.bias` must be set.
pub(super) fn align(dense: &Dense, shape: &Shape, split: &Split, moe: &mut Weights, batches: &[Batch]) -> Result<()> {
    let start = |batch: &Batch| {
        let x = dense.embed(&batch.inputs)?;
        Ok(Streams { dense: x.clone(), moe: x, positions: dense.positions(&batch.inputs)? })
    };
    let mut streams = batches.iter().map(start).collect::<Result<Vec<_>>>()?;
    for (i, dense_layer) in dense.layers.iter().enumerate() {
        let (heads, experts) = (Output::of_attention(split, i), Output::of_ffn(split, i));
        for name in heads.iter().chain([&experts]).flat_map(|o| &o.biases) {
            moe.insert(name, Tensor::zeros(shape.width, DType::F32, &Device::Cpu)?);
        }
        if let Some(heads) = heads {
            let layer = Layer::load(shape, split, moe, i)?;
            let added = |s: &Streams| {
                let dense = dense_layer.attend(&s.dense, &s.positions)?.0 - &s.dense;
                Ok((dense?, (layer.attend(&s.moe, &s.positions)?.0 - &s.moe)?))
            };
            heads.correct(moe, &streams.iter().map(added).collect::<Result<Vec<_>>>()?)?;
        }
        let layer = Layer::load(shape, split, moe, i)?;
        for s in &mut streams {
            s.dense = dense_layer.attend(&s.dense, &s.positions)?.0;
            s.moe = layer.attend(&s.moe, &s.positions)?.0;
        }
        let added = |s: &Streams| {
            let dense = dense_layer.ffn.forward(&dense_layer.ffn_input(&s.dense)?)?;
            Ok((dense, layer.ffn.forward(&layer.ffn_input(&s.moe)?)?.0))
        };
        experts.correct(moe, &streams.iter().map(added).collect::<Result<Vec<_>>>()?)?;
        let layer = Layer::load(shape, split, moe, i)?;
        for s in &mut streams {
            s.dense = (&s.dense + dense_layer.ffn.forward(&dense_layer.ffn_input(&s.dense)?)?)?;
            s.moe = (&s.moe + layer.ffn.forward(&layer.ffn_input(&s.moe)?)?.0)?;
        }
    }
    Ok(())
}

impl Output {
    fn of_ffn(split: &Split, i: usize) -> Output {
        let expert = |e: usize| format!("{}.block_sparse_moe.experts.{e}.w2", layer(i));
        let residual = (split.residual > 0).then(|| format!("{}.mlp_residual.w2.weight", layer(i)));
        Output {
            matrices: (0..split.experts).map(|e| format!("{}.weight", expert(e))).chain(residual).collect(),
            biases: (0..split.experts).map(|e| format!("{}.bias", expert(e))).collect(),
            scale: split.scale,
        }
    }

    fn of_attention(split: &Split, i: usize) -> Option<Output> {
        let heads = split.attention.as_ref()?;
        let names = |suffix| (0..heads.experts).map(|e| format!("{}.self_attn.o_proj.{e}.{suffix}", layer(i))).collect();
        Some(Output { matrices: names("weight"), biases: names("bias"), scale: heads.scale })
    }

    /// Gives what the MoE adds to the stream the moments of what the dense model adds; `added` holds both, batch by batch `[B·T, D]`.
    fn correct(&self, moe: &mut Weights, added: &[(Tensor, Tensor)]) -> Result<()> {
        let (dense, routed): (Vec<_>, Vec<_>) = added.iter().cloned().unzip();
        let (dense_mean, dense_variance) = moments(&dense)?;
        let (mean, variance) = moments(&routed)?;
        // A channel that never moves stays as it is.
        let ratio = (dense_variance / (variance + 1e-12)?)?.sqrt()?;
        let bias = ((dense_mean - (mean * &ratio)?)? / self.scale)?;
        for name in &self.matrices {
            let matrix = moe.get(name)?.broadcast_mul(&ratio.unsqueeze(1)?)?;
            moe.insert(name, matrix);
        }
        for name in &self.biases {
            moe.insert(name, bias.clone());
        }
        Ok(())
    }
}

/// Mean and variance of each channel `[D]` over the rows of all of `parts`.
fn moments(parts: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let all = Tensor::cat(parts, 0)?;
    let mean = all.mean_keepdim(0)?;
    let variance = all.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    Ok((mean.squeeze(0)?, variance))
}

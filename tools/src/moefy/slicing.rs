//! The weights of the MoE: those of the dense model, cut and named as published. Nothing is computed; every number is one of the dense
//! model's, but for the routers.

use candle_core::{Device, Result, Tensor};

use super::partition::Partition;
use super::shape::{Shape, layer};
use super::split::{HeadSplit, Split};
use crate::training::Weights;

/// What is new in a layer.
pub(super) struct NewLayer {
    /// Router of the feed-forward experts `[E, D]`.
    pub(super) gate: Tensor,
    pub(super) partition: Partition,
    /// Router of the attention experts `[E, D]`, if there are any.
    pub(super) attention_gate: Option<Tensor>,
}

/// Cuts the model.
pub(super) fn slice(dense: &Weights, shape: &Shape, split: &Split, layers: &[NewLayer]) -> Result<Weights> {
    let mut moe = Weights::default();
    let output = (!shape.tied).then_some("lm_head.weight");
    for name in ["model.embed_tokens.weight", "model.norm.weight"].into_iter().chain(output) {
        moe.insert(name, dense.get(name)?);
    }
    for (i, new) in layers.iter().enumerate() {
        let prefix = layer(i);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let name = format!("{prefix}.{norm}.weight");
            moe.insert(&name, dense.get(&name)?);
        }
        ffn(dense, &mut moe, &prefix, new)?;
        let attention = format!("{prefix}.self_attn");
        match split.attention.as_ref().zip(new.attention_gate.as_ref()) {
            Some((heads, gate)) => {
                moe.insert(format!("{attention}.gate.weight"), gate.clone());
                heads_of(dense, &mut moe, &attention, shape, heads)?;
            }
            None => {
                for part in ["q", "k", "v", "o"] {
                    let name = format!("{attention}.{part}_proj.weight");
                    moe.insert(&name, dense.get(&name)?);
                }
            }
        }
    }
    Ok(moe)
}

/// Rows of gate and up, columns of down, by neuron.
fn ffn(dense: &Weights, moe: &mut Weights, prefix: &str, new: &NewLayer) -> Result<()> {
    let mut take = |to: &str, neurons: &[usize]| -> Result<()> {
        let ids: Vec<u32> = neurons.iter().map(|&n| n as u32).collect();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        for (part, name, axis) in [("gate", "w1", 0), ("up", "w3", 0), ("down", "w2", 1)] {
            let whole = dense.get(&format!("{prefix}.mlp.{part}_proj.weight"))?;
            moe.insert(format!("{to}.{name}.weight"), whole.index_select(&ids, axis)?);
        }
        Ok(())
    };
    for (e, neurons) in new.partition.experts.iter().enumerate() {
        take(&format!("{prefix}.block_sparse_moe.experts.{e}"), neurons)?;
    }
    if !new.partition.residual.is_empty() {
        take(&format!("{prefix}.mlp_residual"), &new.partition.residual)?;
    }
    moe.insert(format!("{prefix}.block_sparse_moe.gate.weight"), new.gate.clone());
    Ok(())
}

/// Expert `e` has an equal share of the query heads in their order, a copy of the key and value head they read, and their output columns.
fn heads_of(dense: &Weights, moe: &mut Weights, prefix: &str, shape: &Shape, heads: &HeadSplit) -> Result<()> {
    let (own, h) = (shape.heads * shape.head_dim / heads.experts, shape.head_dim);
    for e in 0..heads.experts {
        let kv = e * shape.kv_heads / heads.experts;
        for (part, axis, start, len) in [("q", 0, e * own, own), ("k", 0, kv * h, h), ("v", 0, kv * h, h), ("o", 1, e * own, own)] {
            let whole = dense.get(&format!("{prefix}.{part}_proj.weight"))?;
            moe.insert(format!("{prefix}.{part}_proj.{e}.weight"), whole.narrow(axis, start, len)?.contiguous()?);
        }
    }
    Ok(())
}

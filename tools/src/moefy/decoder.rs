//! What the dense model and its MoE have in common: everything around the feed-forward layers.

use candle_core::{Result, Tensor};

use super::attention::{Attention, Positions};
use super::routing::Routes;
use super::shape::{Shape, layer};
use crate::training::Weights;
use crate::training::ops::{linear, rms_norm};

const TABLE: &str = "model.embed_tokens.weight";

/// A decoder whose feed-forward layers are `F`.
pub(crate) struct Decoder<F> {
    shape: Shape,
    /// `[V, D]`.
    table: Tensor,
    pub(crate) layers: Vec<Layer<F>>,
    /// `[D]`.
    norm: Tensor,
    /// `[V, D]`.
    output: Tensor,
}

/// Attention, then a feed-forward layer, each behind a norm and added to the stream.
pub(crate) struct Layer<F> {
    eps: f64,
    /// `[D]`.
    attention_norm: Tensor,
    attention: Attention,
    /// `[D]`.
    ffn_norm: Tensor,
    pub(crate) ffn: F,
}

impl<F> Decoder<F> {
    pub(super) fn new(shape: &Shape, weights: &Weights, layers: Vec<Layer<F>>) -> Result<Decoder<F>> {
        Ok(Decoder {
            table: weights.get(TABLE)?,
            layers,
            norm: weights.get("model.norm.weight")?,
            output: weights.get(if shape.tied { TABLE } else { "lm_head.weight" })?,
            shape: shape.clone(),
        })
    }

    /// What depends on positions, for tokens `[B, T]`.
    pub(crate) fn positions(&self, tokens: &Tensor) -> Result<Positions> {
        Positions::new(&self.shape, tokens.dim(1)?)
    }

    /// The stream `[B·T, D]` before the first layer.
    pub(crate) fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        self.table.index_select(&tokens.flatten_all()?, 0)
    }

    /// Logits `[B·T, V]` of the stream after the last layer.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        linear(&rms_norm(x, &self.norm, self.shape.eps)?, &self.output)
    }
}

impl<F> Layer<F> {
    /// Layer `i` with these parts.
    pub(super) fn new(shape: &Shape, weights: &Weights, i: usize, attention: Attention, ffn: F) -> Result<Layer<F>> {
        let norm = |name: &str| weights.get(&format!("{}.{name}.weight", layer(i)));
        let (attention_norm, ffn_norm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        Ok(Layer { eps: shape.eps, attention_norm, attention, ffn_norm, ffn })
    }

    /// The stream `[B·T, D]` after attention, and how heads were routed if they were.
    pub(crate) fn attend(&self, x: &Tensor, positions: &Positions) -> Result<(Tensor, Option<Routes>)> {
        let (output, routes) = self.attention.forward(&rms_norm(x, &self.attention_norm, self.eps)?, positions)?;
        Ok(((x + output)?, routes))
    }

    /// What the feed-forward layer reads of the stream.
    pub(crate) fn ffn_input(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.ffn_norm, self.eps)
    }
}

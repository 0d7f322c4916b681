//! The dense model: a LLaMA.

use candle_core::{Result, Tensor};

use super::attention::{Attention, Positions};
use super::decoder::{Decoder, Layer};
use super::shape::{Shape, layer};
use crate::training::ops::linear;
use crate::training::{Model, Weights};

/// `W2 (SiLU(W1 x) ⊙ W3 x)`.
pub(crate) struct GatedFfn {
    /// `[N, D]`.
    pub(crate) w1: Tensor,
    /// `[N, D]`.
    pub(crate) w3: Tensor,
    /// `[D, N]`.
    pub(crate) w2: Tensor,
}

impl GatedFfn {
    /// The neurons' values `[n, N]` for `x` `[n, D]`.
    pub(crate) fn neurons(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.w1)?.silu()? * linear(x, &self.w3)?
    }

    /// What neurons `z` `[n, N]` add to the stream `[n, D]`.
    pub(crate) fn down(&self, z: &Tensor) -> Result<Tensor> {
        linear(z, &self.w2)
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down(&self.neurons(x)?)
    }
}

/// A LLaMA.
pub(crate) type Dense = Decoder<GatedFfn>;

impl Dense {
    /// The model of these weights.
    pub(crate) fn load(shape: &Shape, weights: &Weights) -> Result<Dense> {
        let layer = |i| {
            let get = |part: &str| weights.get(&format!("{}.{part}_proj.weight", layer(i)));
            let (q, k, v, o) = (get("self_attn.q")?, get("self_attn.k")?, get("self_attn.v")?, get("self_attn.o")?);
            let attention = Attention { q, k, v, o, head_dim: shape.head_dim, routing: None };
            Layer::new(shape, weights, i, attention, GatedFfn { w1: get("mlp.gate")?, w3: get("mlp.up")?, w2: get("mlp.down")? })
        };
        Decoder::new(shape, weights, (0..shape.layers).map(layer).collect::<Result<_>>()?)
    }
}

impl Layer<GatedFfn> {
    /// The stream `[B·T, D]` after this layer.
    pub(crate) fn forward(&self, x: &Tensor, positions: &Positions) -> Result<Tensor> {
        let (x, _) = self.attend(x, positions)?;
        &x + self.ffn.forward(&self.ffn_input(&x)?)?
    }
}

impl Model for Dense {
    fn forward(&self, tokens: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let positions = self.positions(tokens)?;
        let stream = self.layers.iter().try_fold(self.embed(tokens)?, |x, layer| layer.forward(&x, &positions))?;
        Ok((self.logits(&stream)?, None))
    }
}

//! The MoE model: the dense one with its feed-forward layers, and if so wished its attention heads, split into routed experts.
//!
//! All experts are computed for all tokens, those a token did not choose weighed with zero. That costs `E / k` times the arithmetic and
//! needs no gathering; for the small models one trains on a CPU it is the faster way.

use candle_core::{Result, Tensor};

use super::attention::{Attention, HeadRouting, Positions};
use super::decoder::{Decoder, Layer};
use super::dense::GatedFfn;
use super::routing::{Router, Routes};
use super::shape::{Shape, layer};
use super::split::Split;
use crate::training::{Model, Weights};

/// Routed experts beside a part that every token uses.
pub(crate) struct RoutedFfn {
    pub(crate) router: Router,
    /// All experts, one after the other: each has an equal share of the neurons.
    experts: GatedFfn,
    /// Added to an expert's output `[E, D]`.
    bias: Option<Tensor>,
    residual: Option<GatedFfn>,
}

impl RoutedFfn {
    /// The sum for `x` `[n, D]`, and how its tokens were routed.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<(Tensor, Routes)> {
        let routes = self.router.route(x)?;
        let (n, experts) = routes.weights.dims2()?;
        let z = self.experts.neurons(x)?;
        let hidden = z.dim(1)?;
        let z = z.reshape((n, experts, hidden / experts))?.broadcast_mul(&routes.weights.unsqueeze(2)?)?;
        let mut y = self.experts.down(&z.reshape((n, hidden))?)?;
        if let Some(bias) = &self.bias {
            y = (y + routes.weights.matmul(bias)?)?;
        }
        if let Some(residual) = &self.residual {
            y = (y + residual.forward(x)?)?;
        }
        Ok((y, routes))
    }
}

/// A model with routed experts. Joining the experts copies them: after every change of the weights the model is made anew.
pub(crate) type Moe = Decoder<RoutedFfn>;

impl Moe {
    /// The model of these weights, which carry their published names.
    pub(crate) fn load(shape: &Shape, split: &Split, weights: &Weights) -> Result<Moe> {
        let layers = (0..shape.layers).map(|i| Layer::load(shape, split, weights, i));
        Decoder::new(shape, weights, layers.collect::<Result<_>>()?)
    }
}

impl Layer<RoutedFfn> {
    /// Layer `i` of the model of these weights.
    pub(crate) fn load(shape: &Shape, split: &Split, weights: &Weights, i: usize) -> Result<Layer<RoutedFfn>> {
        let prefix = layer(i);
        let attention = attention(shape, split, weights, &format!("{prefix}.self_attn"))?;
        Layer::new(shape, weights, i, attention, ffn(split, weights, &prefix)?)
    }

    /// The stream `[B·T, D]` after this layer; adds to `routed` how its tokens were routed.
    fn forward(&self, x: &Tensor, positions: &Positions, routed: &mut Vec<Routes>) -> Result<Tensor> {
        let (x, heads) = self.attend(x, positions)?;
        let (y, experts) = self.ffn.forward(&self.ffn_input(&x)?)?;
        routed.extend(heads.into_iter().chain([experts]));
        x + y
    }
}

impl Model for Moe {
    /// Also gives the mean balance loss of all routers.
    fn forward(&self, tokens: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (positions, mut routed) = (self.positions(tokens)?, Vec::new());
        let stream = self.layers.iter().try_fold(self.embed(tokens)?, |x, layer| layer.forward(&x, &positions, &mut routed))?;
        let balance = routed.iter().map(Routes::balance).collect::<Result<Vec<_>>>()?;
        Ok((self.logits(&stream)?, Some(Tensor::stack(&balance, 0)?.mean(0)?)))
    }
}

fn attention(shape: &Shape, split: &Split, weights: &Weights, prefix: &str) -> Result<Attention> {
    let head_dim = shape.head_dim;
    let Some(heads) = &split.attention else {
        let whole = |part: &str| weights.get(&format!("{prefix}.{part}_proj.weight"));
        return Ok(Attention { q: whole("q")?, k: whole("k")?, v: whole("v")?, o: whole("o")?, head_dim, routing: None });
    };
    let joined = |part: &str, axis| weights.joined(heads.experts, axis, |e| format!("{prefix}.{part}_proj.{e}.weight"));
    let router = Router { gate: weights.get(&format!("{prefix}.gate.weight"))?, top_k: heads.top_k, scale: heads.scale };
    let routing = Some(HeadRouting { router, bias: bias(split, weights, heads.experts, |e| format!("{prefix}.o_proj.{e}.bias"))? });
    Ok(Attention { q: joined("q", 0)?, k: joined("k", 0)?, v: joined("v", 0)?, o: joined("o", 1)?, head_dim, routing })
}

fn ffn(split: &Split, weights: &Weights, prefix: &str) -> Result<RoutedFfn> {
    let moe = format!("{prefix}.block_sparse_moe");
    let router = Router { gate: weights.get(&format!("{moe}.gate.weight"))?, top_k: split.top_k, scale: split.scale };
    let joined = |part: &str, axis| weights.joined(split.experts, axis, |e| format!("{moe}.experts.{e}.{part}.weight"));
    let experts = GatedFfn { w1: joined("w1", 0)?, w3: joined("w3", 0)?, w2: joined("w2", 1)? };
    let whole = |part: &str| weights.get(&format!("{prefix}.mlp_residual.{part}.weight"));
    let residual = if split.residual > 0 { Some(GatedFfn { w1: whole("w1")?, w3: whole("w3")?, w2: whole("w2")? }) } else { None };
    Ok(RoutedFfn { router, experts, bias: bias(split, weights, split.experts, |e| format!("{moe}.experts.{e}.w2.bias"))?, residual })
}

/// The experts' biases `[E, D]`, if they have any.
fn bias(split: &Split, weights: &Weights, experts: usize, name: impl Fn(usize) -> String) -> Result<Option<Tensor>> {
    if !split.bias {
        return Ok(None);
    }
    let rows = (0..experts).map(|e| weights.get(&name(e))).collect::<Result<Vec<_>>>()?;
    Ok(Some(Tensor::stack(&rows, 0)?))
}

//! Causal attention with rotated heads: dense, or with its heads split into routed experts.

use candle_core::{Device, Result, Tensor};

use super::routing::{Router, Routes};
use super::shape::Shape;
use crate::training::ops::{Rotary, causal_softmax, linear};

/// What depends on positions alone, for windows of `T` tokens.
pub(crate) struct Positions {
    window: usize,
    rotary: Rotary,
    /// 0 where a token sees itself, -∞ elsewhere `[T, T]`.
    own: Tensor,
}

impl Positions {
    pub(crate) fn new(shape: &Shape, window: usize) -> Result<Positions> {
        let rotary = Rotary::new(&shape.frequencies, shape.amplitude, window, &Device::Cpu)?;
        let own = (0..window * window).map(|n| if n / window == n % window { 0.0 } else { f32::NEG_INFINITY }).collect::<Vec<f32>>();
        Ok(Positions { window, rotary, own: Tensor::from_vec(own, (window, window), &Device::Cpu)? })
    }
}

/// The projections of one attention layer. With routed heads, every expert brings its own key and value head and some query heads.
pub(crate) struct Attention {
    /// `[H·h, D]`.
    pub(crate) q: Tensor,
    /// `[KV·h, D]`; with routing `[E·h, D]`.
    pub(crate) k: Tensor,
    /// As `k`.
    pub(crate) v: Tensor,
    /// `[D, H·h]`.
    pub(crate) o: Tensor,
    pub(crate) head_dim: usize,
    pub(crate) routing: Option<HeadRouting>,
}

/// The routing of heads.
pub(crate) struct HeadRouting {
    pub(crate) router: Router,
    /// Added to an expert's output `[E, D]`.
    pub(crate) bias: Option<Tensor>,
}

impl Attention {
    /// What the normalised tokens `x` `[B·T, D]` learn from those before them: `[B·T, D]`, and how they were routed.
    pub(crate) fn forward(&self, x: &Tensor, positions: &Positions) -> Result<(Tensor, Option<Routes>)> {
        let (n, window) = (x.dim(0)?, positions.window);
        let (batch, h) = (n / window, self.head_dim);
        // [B, heads, T, h]
        let heads = |weight: &Tensor| linear(x, weight)?.reshape((batch, window, (), h))?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (positions.rotary.rotate(&heads(&self.q)?)?, positions.rotary.rotate(&heads(&self.k)?)?, heads(&self.v)?);
        let (query_heads, kv_heads) = (q.dim(1)?, k.dim(1)?);
        let group = query_heads / kv_heads;

        let q = (q.reshape((batch, kv_heads, group * window, h))? / (h as f64).sqrt())?;
        let scores = q.matmul(&k.t()?)?.reshape((batch, kv_heads, group, window, window))?;
        let routes = self.routing.as_ref().map(|r| r.router.route(x)).transpose()?;
        let scores = match &routes {
            None => scores,
            Some(routes) => scores.broadcast_add(&visible(routes, positions, batch, window)?)?,
        };
        let mixed = causal_softmax(&scores, None)?.reshape((batch, kv_heads, group * window, window))?.matmul(&v)?;
        // [B·T, heads of an expert, group·h]
        let mixed = mixed.reshape((batch, query_heads, window, h))?.transpose(1, 2)?.reshape((n, kv_heads, group * h))?;
        let Some((routing, routes)) = self.routing.as_ref().zip(routes) else {
            return Ok((linear(&mixed.reshape((n, query_heads * h))?, &self.o)?, None));
        };
        let weighed = mixed.broadcast_mul(&routes.weights.unsqueeze(2)?)?.reshape((n, query_heads * h))?;
        let mut output = linear(&weighed, &self.o)?;
        if let Some(bias) = &routing.bias {
            output = (output + routes.weights.matmul(bias)?)?;
        }
        Ok((output, Some(routes)))
    }
}

/// Which tokens each token sees in each expert, as 0 and -∞ `[B, E, 1, T, T]`, beside being causal: those that chose the expert, and itself.
/// Tokens that did not choose the expert see something too, which is multiplied by 0 later.
fn visible(routes: &Routes, positions: &Positions, batch: usize, window: usize) -> Result<Tensor> {
    let experts = routes.chosen.dim(1)?;
    // log 1 = 0, log 0 = -∞.
    let writes = routes.chosen.log()?.reshape((batch, window, experts))?.transpose(1, 2)?.reshape((batch, experts, 1, 1, window))?;
    writes.broadcast_maximum(&positions.own)
}

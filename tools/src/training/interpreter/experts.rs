//! Routed experts: tokens are gathered by expert, so that each is computed for those that chose it.

use candle_core::{Result, Tensor};
use hotset::plan::{Activation, Expert, Role};

use super::router::Routes;
use super::{Run, hidden};
use crate::training::ops::grouped;

impl Run<'_> {
    /// `Σ weight · expert(a)` of feed-forward experts over each token's routes `[B·T, D]`.
    pub(super) fn experts(&self, routes: &Routes, a: &Tensor) -> Result<Tensor> {
        let (gated, activation) = match self.import.plan.pools[routes.pool].expert {
            Expert::Ffn { gated, activation, .. } => (gated, activation),
            _ => (false, Activation::Relu),
        };
        let x = a.index_select(&routes.tokens, 0)?;
        let up = self.project(routes, Role::Up, &x)?;
        let gate = if gated { Some(self.project(routes, Role::Gate, &x)?) } else { None };
        self.combine(routes, &self.project(routes, Role::Down, &hidden(up, gate, activation)?)?, a)
    }

    /// Adds up outputs `[R, D]` of routes, weighed, to what each token of `a` `[B·T, D]` gets.
    pub(super) fn combine(&self, routes: &Routes, outputs: &Tensor, a: &Tensor) -> Result<Tensor> {
        let weighed = outputs.broadcast_mul(&routes.weights)?;
        if let Some(added) = &self.added {
            let lengths = weighed.detach().sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?;
            *added.borrow_mut() = routes.experts.iter().copied().zip(lengths).collect();
        }
        Tensor::zeros(a.shape(), a.dtype(), a.device())?.index_add(&routes.tokens, &weighed, 0)
    }

    /// Rows `x` `[R, in]`, one for each route, times the matrix of that role of the route's expert: `[R, out]`.
    pub(super) fn project(&self, routes: &Routes, role: Role, x: &Tensor) -> Result<Tensor> {
        let expert = &self.import.plan.pools[routes.pool].expert;
        let matrices = expert.matrices(self.import.plan.width);
        let place =
            matrices.iter().position(|m| m.0 == role).ok_or_else(|| candle_core::Error::Msg(format!("experts without {role:?}")))?;
        let (_, rows, cols) = matrices[place];
        let y = grouped(x, &self.tensors.stack(routes.pool, place, (rows as usize, cols as usize))?, &routes.counts)?;
        if !expert.has_biases() {
            return Ok(y);
        }
        // [E, 1, out]
        let biases = self.tensors.stack(routes.pool, matrices.len() + place, (1, rows as usize))?.weight;
        y + biases.squeeze(1)?.index_select(&routes.records, 0)?
    }
}

//! Attention of a batch, with queries and outputs that all tokens share or that routed experts bring.

use candle_core::{Result, Tensor};
use hotset::plan::{Attention, AttentionKind, Linear, Norm, Part, Role};

use super::router::Routes;
use super::{Run, scaled};
use crate::training::ops::{Rotary, causal_softmax, stick_breaking};

impl Run<'_> {
    /// The step's output `[B·T, D]` for its normalised input `a`.
    ///
    /// Every token has `S` sets of `H` query heads, one for each of its routes, or one where nothing is routed.
    pub(super) fn attend(&self, attention: &Attention, routes: Option<&Routes>, a: &Tensor) -> Result<Tensor> {
        let heads = Heads::new(self, attention)?;
        let state = &self.import.plan.states[attention.state as usize];
        let (kv, group) = (state.kv_heads as usize, (attention.heads / state.kv_heads) as usize);

        let keys = heads.finish(self.part(&attention.k, a)?, [1, kv, 1], attention.k_norm.as_ref())?;
        let values = if state.tied { keys.clone() } else { heads.split(&heads.clipped(self.part(&attention.v, a)?)?, [1, kv, 1])? };
        let (queries, slots) = match routes {
            None => (self.part(&attention.q, a)?, 1),
            Some(routes) => {
                let queries = self.project(routes, Role::Query, &a.index_select(&routes.tokens, 0)?)?;
                (queries.index_select(&routes.route_of_slot, 0)?, routes.slots)
            }
        };
        let queries = scaled(heads.finish(queries, [slots, kv, group], attention.q_norm.as_ref())?, attention.scale)?;

        // [B, KV, S·G·T, T]: of each query, how much it looks at each key of its window.
        let scores = queries.matmul(&keys.t()?)?;
        let window = attention.window.map(|w| w as usize);
        let weights = match attention.kind {
            AttentionKind::Softmax => causal_softmax(&scores, window)?,
            AttentionKind::StickBreaking => stick_breaking(&scores, window)?,
        };
        let mixed = heads.join(&weights.matmul(&values)?, [slots, kv, group])?;
        match (&attention.o, routes) {
            (Part::Shared(o), _) => self.linear(o, &mixed),
            (_, Some(routes)) => {
                let mixed = mixed.index_select(&routes.slot_of_route, 0)?;
                self.combine(routes, &self.project(routes, Role::Output, &mixed)?, a)
            }
            _ => candle_core::bail!("a routed output without routes, which the vocabulary excludes"),
        }
    }

    /// A projection that all tokens share `[B·T, out]`.
    fn part(&self, part: &Part, a: &Tensor) -> Result<Tensor> {
        match part {
            Part::Shared(linear) => self.linear(linear, a),
            Part::LowRank { down, norm, up } => self.low_rank(down, norm, up, a),
            Part::Input => Ok(a.clone()),
            Part::Expert | Part::Sum { .. } => candle_core::bail!("routed keys and values, which the vocabulary excludes"),
        }
    }

    fn low_rank(&self, down: &Linear, norm: &Norm, up: &Linear, a: &Tensor) -> Result<Tensor> {
        self.linear(up, &self.norm(norm, &self.linear(down, a)?)?)
    }
}

/// How rows become heads, for windows of one batch.
struct Heads<'a> {
    run: &'a Run<'a>,
    attention: &'a Attention,
    rotary: Option<Rotary>,
}

impl<'a> Heads<'a> {
    fn new(run: &'a Run<'a>, attention: &'a Attention) -> Result<Heads<'a>> {
        let rotation = attention.rotation.map(|r| &run.import.plan.rotations[r as usize]);
        let rotary = rotation.map(|r| {
            let (frequencies, amplitude) = r.for_context(run.window);
            Rotary::new(&frequencies, amplitude, run.window, &run.tensors.weights.device())
        });
        Ok(Heads { run, attention, rotary: rotary.transpose()? })
    }

    /// Queries or keys: rows of all heads `[B·T·S, KV·G·h]`, normalised, clipped and rotated, as `[B, KV, S·G·T, h]`.
    fn finish(&self, x: Tensor, shape: [usize; 3], norm: Option<&Norm>) -> Result<Tensor> {
        let over_head = |n: &&Norm| self.run.tensors.dense(n.weight()).is_ok_and(|w| w.elem_count() == self.attention.head_dim as usize);
        let x = match norm.filter(|n| !over_head(n)) {
            Some(n) => self.run.norm(n, &x)?,
            None => x,
        };
        let mut x = self.split(&x, shape)?;
        if self.attention.rotated_first {
            x = self.rotated(x)?;
        }
        if let Some(n) = norm.filter(over_head) {
            x = self.run.norm(n, &x)?;
        }
        x = self.clipped(x)?;
        if self.attention.rotated_first { Ok(x) } else { self.rotated(x) }
    }

    /// `[B·T·S, KV·G·h]` as `[B, KV, S·G·T, h]`.
    fn split(&self, x: &Tensor, [slots, kv, group]: [usize; 3]) -> Result<Tensor> {
        let (batch, window, h) = (self.run.batch, self.run.window, self.attention.head_dim as usize);
        let x = x.reshape((batch, window, slots, kv, group * h))?;
        // What lies together stays so as long as it can: it is copied in runs.
        let x = x.permute((0, 3, 2, 1, 4))?.contiguous()?;
        if group == 1 {
            return x.reshape((batch, kv, slots * window, h));
        }
        let x = x.reshape((batch * kv * slots, window, group, h))?.transpose(1, 2)?.contiguous()?;
        x.reshape((batch, kv, slots * group * window, h))
    }

    /// The way back.
    fn join(&self, x: &Tensor, [slots, kv, group]: [usize; 3]) -> Result<Tensor> {
        let (batch, window, h) = (self.run.batch, self.run.window, self.attention.head_dim as usize);
        let x = x.reshape((batch * kv * slots, group, window, h))?;
        let x = if group == 1 { x } else { x.transpose(1, 2)?.contiguous()? };
        let x = x.reshape((batch, kv, slots, window, group * h))?.permute((0, 3, 2, 1, 4))?.contiguous()?;
        x.reshape((batch * window * slots, kv * group * h))
    }

    fn rotated(&self, x: Tensor) -> Result<Tensor> {
        let Some(rotary) = &self.rotary else { return Ok(x) };
        let (b, kv, rows, h) = x.dims4()?;
        let x = rotary.rotate(&x.reshape((b * kv, rows / self.run.window, self.run.window, h))?)?;
        x.reshape((b, kv, rows, h))
    }

    fn clipped(&self, x: Tensor) -> Result<Tensor> {
        self.attention.clip.map_or(Ok(x.clone()), |c| x.clamp(-c, c))
    }
}

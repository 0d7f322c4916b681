//! Routing of a batch: logits and weights with gradients, the choice between them without.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::sigmoid;
use hotset::plan::{Cell, Pruned, Routed, Score, Semantics, Transform, Value, Weigh};

use super::choose::choose;
use super::{Run, activate};
use crate::training::ops::{linear, softmax};

/// The routes of a batch to the records of a pool, in order of record and then token: `R` of them.
pub(super) struct Routes {
    /// Index into the plan's pools.
    pub(super) pool: usize,
    /// How many lead to each record.
    pub(super) counts: Arc<[usize]>,
    /// Record of each route `[R]`.
    pub(super) records: Tensor,
    /// Expert of each route; experts may share a record.
    pub(super) experts: Vec<u32>,
    /// Token of each route `[R]`.
    pub(super) tokens: Tensor,
    /// Weight of each route `[R, 1]`.
    pub(super) weights: Tensor,
    /// Most routes of a token, `S`, and at least 1.
    pub(super) slots: usize,
    /// The route in each slot of each token `[B·T·S]`; any route in slots that are free.
    pub(super) route_of_slot: Tensor,
    /// The slot of each route, counted over all tokens `[R]`.
    pub(super) slot_of_route: Tensor,
}

/// Choices of a batch: the experts of each token, in the order of selection.
struct Choices {
    tokens: Vec<Vec<u32>>,
    experts: usize,
}

impl Run<'_> {
    /// Logits `[B·T, E]`, how many tokens chose each expert `[E]`, and the routes of those experts that compute something.
    pub(super) fn route(&self, routed: &Routed, x: &Tensor, memories: &mut [Option<Tensor>]) -> Result<(Tensor, Vec<u64>, Routes)> {
        let router = &routed.router;
        let logits = self.score(&router.score, x, memories)?;
        let logits = match &router.transform {
            None => logits,
            Some(Transform::Relu { norm: None }) => logits.relu()?,
            Some(Transform::Relu { norm: Some(n) }) => self.norm(n, &logits.relu()?)?,
        };
        let pruned = router.pruned.as_ref();
        let logits = match pruned.filter(|p| p.semantics == Semantics::Deleted) {
            Some(p) => logits.broadcast_add(&without(p, logits.dim(1)?, &logits)?)?,
            None => logits,
        };
        let mut values = match router.select.by {
            Value::Softmax => softmax(&logits.detach())?,
            Value::Sigmoid => sigmoid(&logits.detach())?,
            _ => logits.detach(),
        };
        if let Some(bias) = &router.select.bias {
            values = values.broadcast_add(&self.tensors.dense(bias)?.detach())?;
        }
        if let Some(p) = pruned {
            values = values.broadcast_add(&without(p, values.dim(1)?, &values)?)?;
        }
        let experts = values.dim(1)?;
        let mut values = values.flatten_all()?.to_vec1::<f32>()?;
        let mut tokens = Vec::with_capacity(values.len() / experts);
        for values in values.chunks_exact_mut(experts) {
            let mut chosen = Vec::new();
            choose(&router.select, values, &mut chosen);
            tokens.push(chosen);
        }
        let choices = Choices { tokens, experts };
        let mut chosen = vec![0; experts];
        choices.tokens.iter().flatten().for_each(|&e| chosen[e as usize] += 1);
        let routes = self.routes(routed.pool as usize, &choices, &weigh(&router.weigh, &logits, &choices)?)?;
        Ok((logits, chosen, routes))
    }

    /// One logit per expert `[B·T, E]`.
    fn score(&self, score: &Score, x: &Tensor, memories: &mut [Option<Tensor>]) -> Result<Tensor> {
        match score {
            Score::Linear(l) => self.linear(l, x),
            Score::Mlp { hidden, activation, output } => self.linear(output, &activate(&self.linear(hidden, x)?, *activation)?),
            Score::Cosine { projection, centroids } => {
                let z = self.linear(projection, x)?;
                let length = z.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
                linear(&z.broadcast_div(&length)?, &self.tensors.dense(centroids)?)
            }
            Score::Recurrent { cell, memory, input, hidden, output } => {
                let i = self.linear(input, x)?;
                let slot = &mut memories[*memory as usize];
                let width = self.import.plan.memories[*memory as usize] as usize;
                let h = slot.take().map_or_else(|| Tensor::zeros((x.dim(0)?, width), x.dtype(), x.device()), Ok)?;
                let j = self.linear(hidden, &h)?;
                let next = match cell {
                    Cell::Tanh => (i + j)?.tanh()?,
                    Cell::Gru => {
                        let part = |x: &Tensor, n: usize| x.narrow(1, n * width, width);
                        let reset = sigmoid(&(part(&i, 0)? + part(&j, 0)?)?)?;
                        let update = sigmoid(&(part(&i, 1)? + part(&j, 1)?)?)?;
                        let new = (part(&i, 2)? + (reset * part(&j, 2)?)?)?.tanh()?;
                        (&new + (update * (h - &new)?)?)?
                    }
                };
                self.linear(output, slot.insert(next))
            }
        }
    }

    /// Sorts choices by record. `weights`: of every expert for every token `[B·T, E]`.
    fn routes(&self, pool: usize, choices: &Choices, weights: &Tensor) -> Result<Routes> {
        let of = &self.import.plan.pools[pool];
        let mut by_record: Vec<Vec<(usize, u32, usize)>> = vec![Vec::new(); of.records as usize];
        for (token, chosen) in choices.tokens.iter().enumerate() {
            for (slot, &expert) in chosen.iter().enumerate() {
                if let Some(record) = of.record_of(expert) {
                    by_record[record as usize].push((token, expert, slot));
                }
            }
        }
        let slots = choices.tokens.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let mut route_of_slot = vec![0u32; choices.tokens.len() * slots];
        let (mut records, mut tokens, mut cells, mut slot_of_route) =
            (Vec::<u32>::new(), Vec::<u32>::new(), Vec::<u32>::new(), Vec::<u32>::new());
        let mut experts = Vec::new();
        for (record, &(token, expert, slot)) in by_record.iter().enumerate().flat_map(|(i, routes)| routes.iter().map(move |r| (i, r))) {
            route_of_slot[token * slots + slot] = records.len() as u32;
            slot_of_route.push((token * slots + slot) as u32);
            records.push(record as u32);
            experts.push(expert);
            tokens.push(token as u32);
            cells.push((token * choices.experts) as u32 + expert);
        }
        let device = weights.device();
        let indices = |ids: Vec<u32>| Tensor::new(ids, device);
        Ok(Routes {
            pool,
            counts: by_record.iter().map(Vec::len).collect(),
            records: indices(records)?,
            experts,
            tokens: indices(tokens)?,
            weights: weights.flatten_all()?.index_select(&indices(cells)?, 0)?.unsqueeze(1)?,
            slots,
            route_of_slot: indices(route_of_slot)?,
            slot_of_route: indices(slot_of_route)?,
        })
    }
}

/// −∞ for experts that are not chosen any more, 0 for the others `[E]`.
fn without(pruned: &Pruned, experts: usize, like: &Tensor) -> Result<Tensor> {
    let mut row = vec![0.0f32; experts];
    pruned.experts.iter().for_each(|&e| row[e as usize] = f32::NEG_INFINITY);
    Tensor::new(row, like.device())
}

impl Choices {
    /// `yes` where an expert was chosen and `no` elsewhere `[B·T, E]`.
    fn mask(&self, yes: f32, no: f32, like: &Tensor) -> Result<Tensor> {
        let mut mask = vec![no; self.tokens.len() * self.experts];
        for (chosen, row) in self.tokens.iter().zip(mask.chunks_exact_mut(self.experts)) {
            chosen.iter().for_each(|&e| row[e as usize] = yes);
        }
        Tensor::from_vec(mask, like.shape(), like.device())
    }
}

/// The weight that each expert has, or would have if it was chosen `[B·T, E]`.
fn weigh(weigh: &Weigh, logits: &Tensor, choices: &Choices) -> Result<Tensor> {
    let mut weights = match weigh.by {
        Value::Softmax => softmax(logits)?,
        Value::Sigmoid => sigmoid(logits)?,
        Value::SoftmaxSelected => softmax(&(logits + choices.mask(0.0, f32::NEG_INFINITY, logits)?)?)?,
        Value::Logit | Value::SoftmaxClose { .. } => logits.clone(),
    };
    if weigh.normalise {
        let kept = (&weights * choices.mask(1.0, 0.0, logits)?)?;
        // A token without experts has a sum that nobody reads, but whose gradient must be a number.
        let sum = (kept.sum_keepdim(1)? + f64::from(weigh.epsilon))?.maximum(weigh.floor.max(1e-18))?;
        weights = weights.broadcast_div(&sum)?;
    }
    super::scaled(weights, weigh.scale)
}

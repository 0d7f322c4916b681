//! A second interpreter of plans, with gradients: it runs windows of tokens on a checkpoint's own tensors.
//!
//! What a plan names is a function of those tensors, so that gradients reach them, and what was trained can be written back under the names
//! it came with. It knows no family, and shares no code with the runtime's executors.

mod attention;
mod choose;
mod experts;
mod norm;
mod router;
mod tensors;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::{DType, Result, Tensor};
use hotset::plan::{Activation, Embedding, Feature, Join, Linear, Pruned, Semantics, SharedFfn, Step, Work};
use hotset::profile::Kept;

use crate::failure;
use crate::import::Import;
use crate::training::Weights;
use crate::training::ops::{gelu_tanh, linear};

use tensors::Tensors;

/// A model that can be trained.
pub(crate) struct Interpreter {
    import: Import,
}

/// What a model makes of a batch.
pub(crate) struct Pass {
    /// `[B·T, V]`.
    pub(crate) logits: Tensor,
    /// Of every routed step, in the plan's order.
    pub(crate) routings: Vec<Routing>,
}

/// How a batch was routed at a step.
pub(crate) struct Routing {
    /// Index into the plan's steps.
    pub(crate) step: usize,
    /// What the router thinks of each expert `[B·T, E]`.
    pub(crate) logits: Tensor,
    /// How many tokens chose each expert `[E]`.
    pub(crate) chosen: Vec<u64>,
    /// The sum of the lengths of what each expert added to the stream `[E]`, where that was asked for.
    pub(crate) added: Option<Vec<f64>>,
}

impl Interpreter {
    /// Fails, naming the part, when the plan has one that this interpreter cannot compute.
    pub(crate) fn new(import: Import) -> failure::Result<Interpreter> {
        vocabulary::check(&import)?;
        Ok(Interpreter { import })
    }

    pub(crate) fn import(&self) -> &Import {
        &self.import
    }

    /// The checkpoint tensors that the model is made of.
    pub(crate) fn tensors(&self) -> BTreeSet<String> {
        tensors::all(&self.import)
    }

    /// Those that routers are made of.
    pub(crate) fn router_tensors(&self) -> BTreeSet<String> {
        tensors::of_routers(&self.import)
    }

    /// Those that experts are made of.
    pub(crate) fn expert_tensors(&self) -> BTreeSet<String> {
        tensors::of_experts(&self.import)
    }

    /// The same model with routers that choose only experts that `kept` names. Their values stay those over all experts.
    pub(crate) fn closed(&self, kept: &Kept) -> Interpreter {
        let mut import = self.import.clone();
        for routed in import.plan.steps.iter_mut().filter_map(|s| s.routed.as_mut()) {
            let (pool, kept) = (&import.plan.pools[routed.pool as usize], &kept.pools[routed.pool as usize]);
            let experts: Vec<u32> = (0..pool.experts()).filter(|e| !kept.contains(e)).collect();
            routed.router.pruned = (!experts.is_empty()).then_some(Pruned { experts, semantics: Semantics::Masked });
        }
        Interpreter { import }
    }

    /// Runs the tokens `[B, T]`, each window for itself.
    pub(crate) fn forward(&self, weights: &Weights, tokens: &Tensor) -> Result<Pass> {
        self.pass(weights, tokens, false)
    }

    /// The same, and measures what experts add to the stream.
    pub(crate) fn observe(&self, weights: &Weights, tokens: &Tensor) -> Result<Pass> {
        self.pass(weights, tokens, true)
    }

    fn pass(&self, weights: &Weights, tokens: &Tensor, observed: bool) -> Result<Pass> {
        let (batch, window) = tokens.dims2()?;
        let tokens = &tokens.to_device(&weights.device())?;
        let plan = &self.import.plan;
        let added = observed.then(RefCell::default);
        let run = Run { import: &self.import, tensors: Tensors { import: &self.import, weights }, batch, window, added };
        let beside = plan.streams.iter().map(|s| match &s.embedding {
            Some(e) => run.embed(e, tokens),
            None => Tensor::zeros((batch * window, s.width as usize), DType::F32, tokens.device()),
        });
        let mut state = State {
            streams: std::iter::once(run.embed(&plan.embedding, tokens)).chain(beside).collect::<Result<_>>()?,
            memories: vec![None; plan.memories.len()],
        };
        let mut routings = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let y = run.step(index, step, &mut state, &mut routings)?;
            let to = &mut state.streams[step.to as usize];
            *to = match step.join {
                Join::Add => (&*to + y)?,
                Join::Replace => y,
            };
        }
        let normed = run.norm(&plan.head.norm, &state.streams[0])?;
        let logits = scaled(run.linear(&plan.head.output, &normed)?, plan.head.scale)?;
        Ok(Pass { logits, routings })
    }
}

/// What a batch carries through the plan.
struct State {
    /// The residual stream and those beside it `[B·T, width]`.
    streams: Vec<Tensor>,
    /// Of recurrent routers `[B·T, G]`; absent until first written, which means zero.
    memories: Vec<Option<Tensor>>,
}

/// One batch on its way.
struct Run<'a> {
    import: &'a Import,
    tensors: Tensors<'a>,
    /// Windows, `B`.
    batch: usize,
    /// Tokens of each, `T`.
    window: usize,
    /// Expert and length of what every route of the last step added, where that is wanted.
    added: Option<RefCell<Vec<(u32, f32)>>>,
}

impl Run<'_> {
    fn embed(&self, e: &Embedding, tokens: &Tensor) -> Result<Tensor> {
        let x = self.tensors.dense(&e.table)?.index_select(&tokens.flatten_all()?, 0)?;
        let x = scaled(x, e.scale)?;
        let Some(positions) = &e.positions else { return Ok(x) };
        let positions = self.tensors.dense(positions)?.narrow(0, 0, self.window)?;
        let (n, width) = x.dims2()?;
        x.reshape((self.batch, self.window, width))?.broadcast_add(&positions)?.reshape((n, width))
    }

    /// What `step` gives its stream `[B·T, width]`.
    fn step(&self, index: usize, step: &Step, state: &mut State, routings: &mut Vec<Routing>) -> Result<Tensor> {
        let x = &state.streams[step.from as usize];
        let a = step.norm.as_ref().map_or(Ok(x.clone()), |n| self.norm(n, x))?;
        let mut routes = None;
        if let Some(routed) = &step.routed {
            let feature = match routed.router.feature {
                Feature::Input => &a,
                Feature::Stream(s) => &state.streams[s as usize],
            };
            let (logits, chosen, found) = self.route(routed, feature, &mut state.memories)?;
            routings.push(Routing { step: index, logits, chosen, added: None });
            routes = Some(found);
        }
        let y = match &step.work {
            Work::Attention(attention) => self.attend(attention, routes.as_ref(), &a)?,
            Work::Ffn(ffn) => {
                let routed = routes.map(|r| self.experts(&r, &a)).transpose()?;
                let shared = ffn.shared.as_ref().map(|s| self.shared(s, &a)).transpose()?;
                match (routed, shared) {
                    (Some(routed), Some(shared)) => (routed + shared)?,
                    (Some(y), None) | (None, Some(y)) => y,
                    (None, None) => a.zeros_like()?,
                }
            }
            Work::Identity => a,
            Work::Convolution(_) => candle_core::bail!("a convolution, which the vocabulary excludes"),
        };
        if let (Some(added), Some(routing), true) = (&self.added, routings.last_mut(), step.routed.is_some()) {
            let mut sums = vec![0.0; routing.chosen.len()];
            added.borrow().iter().for_each(|&(e, length)| sums[e as usize] += f64::from(length));
            routing.added = Some(sums);
        }
        let y = match &step.bias {
            Some(bias) => y.broadcast_add(&self.tensors.dense(bias)?)?,
            None => y,
        };
        scaled(y, step.scale)
    }

    /// `W · x + b` for rows `x`.
    fn linear(&self, l: &Linear, x: &Tensor) -> Result<Tensor> {
        let y = linear(x, &self.tensors.dense(&l.weight)?)?;
        l.bias.as_ref().map_or(Ok(y.clone()), |b| y.broadcast_add(&self.tensors.dense(b)?))
    }

    fn shared(&self, s: &SharedFfn, a: &Tensor) -> Result<Tensor> {
        let gate = s.gate.as_ref().map(|g| self.linear(g, a)).transpose()?;
        let y = self.linear(&s.down, &hidden(self.linear(&s.up, a)?, gate, s.activation)?)?;
        match &s.weigh {
            Some(w) => y.broadcast_mul(&candle_nn::ops::sigmoid(&self.linear(w, a)?)?),
            None => Ok(y),
        }
    }
}

/// `x · by`, for nothing when that is 1.
fn scaled(x: Tensor, by: f32) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * f64::from(by) }
}

/// `act(gate) ⊙ up`, or `act(up)`.
fn hidden(up: Tensor, gate: Option<Tensor>, activation: Activation) -> Result<Tensor> {
    match (gate, activation) {
        (Some(gate), Activation::Clamped { limit, .. }) => activate(&gate, activation)? * (up.clamp(-limit, limit)? + 1.0)?,
        (Some(gate), _) => activate(&gate, activation)? * up,
        (None, _) => activate(&up, activation),
    }
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Relu => x.relu(),
        Activation::Clamped { alpha, limit } => {
            let x = x.minimum(limit)?;
            &x * candle_nn::ops::sigmoid(&(&x * f64::from(alpha))?)?
        }
    }
}

//! Routing: scores, choice, and for large batches the order in which experts see their tokens.

use hotset_shaders::{group, recur, route};

use super::{FEW, Lower, NONE, Product, all, parts_of, product::Factor};
use crate::error::{Error, Result};
use crate::gpu::program::Program;
use crate::gpu::scratch::{cell_rows, choice, mask, routes, row};
use crate::gpu::weights::padded_rows;
use crate::plan::{Cell, Feature, GroupBy, Linear, Routed, Router, Rule, Score, Semantics, Step, Transform, Value};

/// Most groups of experts that `route` tells apart.
const GROUPS: u32 = 1024;
/// Bits of what `route` does to logits: negative ones become 0.
const RELU: u32 = 1;
/// Pruned experts' become the lowest.
const DELETE: u32 = 2;

impl Lower<'_> {
    /// Where the gate logits of the always-on part begin in `scores`, behind the router's, in vec4.
    pub(super) fn gate_logits(&self, step: &Step) -> u32 {
        let experts = step.routed.as_ref().map_or(0, |r| padded_rows(self.plan.pools[r.pool as usize].experts()));
        self.scratch.batch * experts / 4
    }

    /// Fills `ids` and `weights`. `also` is one more row that shares the input: the gate of the always-on part.
    pub(super) fn route(&self, program: &mut Program, number: u32, step: &Step, routed: &Routed, also: Option<&Linear>) -> Result<()> {
        let s = self.scratch;
        let experts = self.plan.pools[routed.pool as usize].experts();
        self.score(program, step, &routed.router, experts, also)?;
        let params = self.choice(number, step, routed)?;
        let buffers = route::Buffers {
            logits: all(&s.scores),
            hidden: all(&s.router_hidden),
            vectors: all(self.weights.vectors()),
            slot_of: all(&self.slabs.slot_of),
            ids: all(&s.ids),
            weights: all(&s.weights),
            choices: all(self.choices),
        };
        let choice = choice(self.plan, number as usize, self.options.routing);
        program.push(self.device, route::kernel(self.device.lanes), buffers, move |f| {
            let params = if f.latched { route::Params { latch: 1 + number, choice, ..params } } else { params };
            Some((params, [f.tokens, 1, 1]))
        })?;
        let buffers = group::Buffers { ids: all(&s.ids), starts: all(&s.starts), sorted: all(&s.sorted), tiles: all(&s.tiles) };
        program.push(self.device, group::kernel(), buffers, move |frame| {
            (frame.tokens > FEW).then_some((group::Params { routes: frame.tokens * params.routes, experts }, [1, 1, 1]))
        })
    }

    /// The logits, in `scores`.
    fn score(&self, program: &mut Program, step: &Step, router: &Router, experts: u32, also: Option<&Linear>) -> Result<()> {
        let (s, stride) = (self.scratch, padded_rows(experts) / 4);
        let input = (&s.a, self.stride(step.from));
        let feature = match router.feature {
            Feature::Input => input,
            Feature::Stream(n) => (&s.streams[n as usize], self.stride(n)),
        };
        let mut gate = also.map(|l| Factor::new(l, self.gate_logits(step), 4));
        let hidden = |factor, x| Product::new(vec![factor], x, &s.router_hidden);
        let logits = |factors, x| Product::new(factors, x, &s.scores);
        match &router.score {
            Score::Linear(l) => {
                let shared = if router.feature == Feature::Input { gate.take() } else { None };
                self.product(program, &logits([Factor::new(l, 0, stride)].into_iter().chain(shared).collect(), feature))?;
            }
            Score::Mlp { hidden: first, activation, output } => {
                let width = row(self.rows_of(&first.weight)?) / 4;
                let first = hidden(Factor::new(first, 0, width), feature);
                self.product(program, &Product { activation: Some(*activation), ..first })?;
                self.product(program, &logits(vec![Factor::new(output, 0, stride)], (&s.router_hidden, width)))?;
            }
            Score::Cosine { projection, centroids } => {
                let width = row(self.rows_of(&projection.weight)?) / 4;
                self.product(program, &hidden(Factor::new(projection, 0, width), feature))?;
                let centroids = Factor { weight: centroids, bias: None, out: 0, stride };
                self.product(program, &logits(vec![centroids], (&s.router_hidden, width)))?;
            }
            Score::Recurrent { cell, memory, input, hidden: previous, output } => {
                let width = self.plan.memories[*memory as usize];
                let rows = padded_rows(cell_rows(self.plan, *cell, *memory));
                let memory = (&s.memories[*memory as usize], row(width) / 4);
                self.product(program, &hidden(Factor::new(input, 0, rows / 4), feature))?;
                self.product(program, &hidden(Factor::new(previous, s.batch * rows / 4, rows / 4), memory))?;
                let gated = u32::from(*cell == Cell::Gru);
                let params = recur::Params { width, stride: rows, j: s.batch * rows, memory_stride: row(width), gated };
                let buffers = recur::Buffers { parts: all(&s.router_hidden), memory: all(memory.0) };
                program.push(self.device, recur::kernel(), buffers, move |f| Some((params, [f.tokens, 1, 1])))?;
                self.product(program, &logits(vec![Factor::new(output, 0, stride)], memory))?;
            }
        }
        gate.map_or(Ok(()), |gate| self.product(program, &logits(vec![gate], input)))
    }

    /// How experts are chosen and weighed.
    fn choice(&self, number: u32, step: &Step, routed: &Routed) -> Result<route::Params> {
        let (pool, router) = (&self.plan.pools[routed.pool as usize], &routed.router);
        let cosine = match &router.score {
            Score::Cosine { projection, .. } => self.rows_of(&projection.weight)?,
            Score::Linear(_) | Score::Mlp { .. } | Score::Recurrent { .. } => 0,
        };
        let deleted = router.pruned.as_ref().is_some_and(|p| p.semantics == Semantics::Deleted);
        let (rectified, norm) = match &router.transform {
            None => (0, None),
            Some(Transform::Relu { norm }) => (RELU, norm.as_ref()),
        };
        let (norm, weight, bias, eps) = parts_of(norm);
        let rule = match self.options.routing.rule(router, pool.experts()) {
            Rule::TopK { .. } => route::Params::default(),
            Rule::TopP { p } => route::Params { rule: 1, p, ..Default::default() },
            Rule::NonZero => route::Params { rule: 2, ..Default::default() },
            Rule::Rank { rank } => route::Params { rule: 3, rank, ..Default::default() },
            Rule::Certain { p, least, index, threshold, epsilon } => {
                route::Params { rule: 4, p, least, entropy: index, threshold, inside: epsilon, ..Default::default() }
            }
        };
        let groups = router.select.groups;
        if let Some(g) = groups.filter(|g| g.count > GROUPS) {
            return Err(Error::Device(format!("step {number} has {} groups of experts; GPUs do {GROUPS} at most", g.count)));
        }
        Ok(route::Params {
            experts: pool.experts(),
            stride: padded_rows(pool.experts()),
            routes: routes(self.plan, step, self.options.routing),
            cosine,
            hidden_stride: row(cosine),
            change: rectified | if deleted { DELETE } else { 0 },
            norm,
            norm_weight: self.elements(weight)?,
            norm_bias: self.elements(bias)?,
            eps,
            select: value(router.select.by).0,
            bias: self.elements(router.select.bias.as_deref())?,
            groups: groups.map_or(0, |g| g.count),
            keep: groups.map_or(0, |g| g.keep),
            pairs: groups.is_some_and(|g| g.by == GroupBy::BestTwo).into(),
            by: value(router.weigh.by).0,
            margin: value(router.weigh.by).1,
            normalise: router.weigh.normalise.into(),
            epsilon: router.weigh.epsilon,
            floor: router.weigh.floor,
            scale: router.weigh.scale,
            table: self.slabs.pools[routed.pool as usize].table,
            mask: router.pruned.as_ref().map_or(NONE, |_| {
                let steps = self.plan.steps.len();
                choice(self.plan, steps, self.options.routing) + mask(self.plan, number as usize)
            }),
            latch: 0,
            choice: NONE,
            ..rule
        })
    }

    /// Rows of a matrix.
    pub(super) fn rows_of(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.weights.layout(name)?.rows).unwrap_or(u32::MAX))
    }
}

/// The kernel's number of a value, and its margin.
fn value(value: Value) -> (u32, f32) {
    match value {
        Value::Logit => (0, 0.0),
        Value::Softmax => (1, 0.0),
        Value::Sigmoid => (2, 0.0),
        Value::SoftmaxSelected => (3, 0.0),
        Value::SoftmaxClose { margin } => (4, margin),
    }
}

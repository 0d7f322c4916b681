//! Routing: scores, choice, and for large batches the order in which experts see their tokens.

use hotset_shaders::{group, route};

use super::{FEW, Lower, NONE, Product, Span, all, product::Factor};
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::{choice, routes, row};
use crate::gpu::weights::padded_rows;
use crate::plan::{Linear, Routed, Score, Step, Value};

impl Lower<'_> {
    /// Where the gate logits of the always-on part begin in `scores`, behind the router's, in vec4.
    pub(super) fn gate_logits(&self, step: &Step) -> u32 {
        let experts = step.routed.as_ref().map_or(0, |r| padded_rows(self.plan.pools[r.pool as usize].experts()));
        self.scratch.batch * experts / 4
    }

    /// Fills `ids` and `weights`. `also` is one more row that shares the input: the gate of the always-on part.
    pub(super) fn route(&self, program: &mut Program, number: u32, step: &Step, routed: &Routed, also: Option<&Linear>) -> Result<()> {
        let (s, stride) = (self.scratch, self.stride());
        let experts = self.plan.pools[routed.pool as usize].experts();
        let scores_stride = padded_rows(experts) / 4;
        let gate = also.map(|l| Factor::new(l, self.gate_logits(step), 4));
        let product = |factors, activation, x, x_stride, y| Product {
            factors,
            gated: false,
            activation,
            scale: 1.0,
            x,
            x_stride,
            y,
            span: Span::Batch,
        };
        let (mut cosine, mut hidden_stride) = (0, 0);
        match &routed.router.score {
            Score::Recurrent { .. } => unimplemented!("fast path"),
            Score::Linear(l) => {
                let factors = std::iter::once(Factor::new(l, 0, scores_stride)).chain(gate).collect();
                self.product(program, &product(factors, None, &s.a, stride, &s.scores))?;
            }
            Score::Mlp { hidden: first, .. } | Score::Cosine { projection: first, .. } => {
                if let Some(gate) = gate {
                    self.product(program, &product(vec![gate], None, &s.a, stride, &s.scores))?;
                }
                let width = u32::try_from(self.weights.layout(&first.weight)?.rows).unwrap_or(u32::MAX);
                hidden_stride = row(width);
                let (activation, last) = match &routed.router.score {
                    Score::Mlp { activation, output, .. } => (Some(*activation), Factor::new(output, 0, scores_stride)),
                    Score::Cosine { centroids, .. } => {
                        cosine = width;
                        (None, Factor { weight: centroids, bias: None, out: 0, stride: scores_stride })
                    }
                    Score::Recurrent { .. } => unimplemented!("fast path"),
                    Score::Linear(l) => (None, Factor::new(l, 0, scores_stride)),
                };
                let first = vec![Factor::new(first, 0, hidden_stride / 4)];
                self.product(program, &product(first, activation, &s.a, stride, &s.router_hidden))?;
                self.product(program, &product(vec![last], None, &s.router_hidden, hidden_stride / 4, &s.scores))?;
            }
        }
        let weigh = &routed.router.weigh;
        let params = route::Params {
            experts,
            stride: scores_stride * 4,
            k: routes(self.plan, step),
            by: match weigh.by {
                Value::Logit => 0,
                Value::Softmax => 1,
                Value::SoftmaxSelected => 2,
                Value::Sigmoid | Value::SoftmaxClose { .. } => unimplemented!("fast path"),
            },
            normalise: weigh.normalise.into(),
            scale: weigh.scale,
            cosine,
            hidden_stride,
            table: self.slabs.pools[routed.pool as usize].table,
            latch: 0,
            choice: NONE,
        };
        let buffers = route::Buffers {
            logits: all(&s.scores),
            hidden: all(&s.router_hidden),
            slot_of: all(&self.slabs.slot_of),
            ids: all(&s.ids),
            weights: all(&s.weights),
            choices: all(self.choices),
        };
        let choice = choice(self.plan, number as usize);
        program.push(self.device, route::kernel(self.device.lanes), buffers, move |f| {
            let params = if f.latched { route::Params { latch: 1 + number, choice, ..params } } else { params };
            Some((params, [f.tokens, 1, 1]))
        })?;
        let buffers = group::Buffers { ids: all(&s.ids), starts: all(&s.starts), sorted: all(&s.sorted), tiles: all(&s.tiles) };
        program.push(self.device, group::kernel(), buffers, move |frame| {
            (frame.tokens > FEW).then_some((group::Params { routes: frame.tokens * params.k, experts }, [1, 1, 1]))
        })
    }
}

//! From a plan to programs: each step becomes a handful of dispatches, recorded once for a run and replayed for every batch.
//!
//! One decoder layer of the common kind takes ten: `join, dense (q+k+v), heads, attend, dense (o)` and
//! `join, dense (router), route, expert (gate+up), expert (down)`.

mod attention;
mod ffn;
mod head;
mod product;
mod router;

use hotset_shaders::join;

use super::cache::Cache;
use super::device::Device;
use super::program::Program;
use super::scratch::{Scratch, routes, row};
use super::slabs::Slabs;
use super::weights::Weights;
use crate::error::Result;
use crate::model::RunOptions;
use crate::plan::{Activation, Norm, Plan, Step, Work};
use product::{Expansion, Product, Span};

/// Up to this many tokens go through matrix-vector kernels, more through tiles.
const FEW: u32 = 4;
/// Marks an absent vector in parameters.
const NONE: u32 = u32::MAX;

/// Everything lowering looks at.
#[derive(Clone, Copy)]
pub(super) struct Lower<'a> {
    pub(super) device: &'a Device,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) slabs: &'a Slabs,
    pub(super) scratch: &'a Scratch,
    pub(super) caches: &'a [Cache],
    pub(super) choices: &'a wgpu::Buffer,
    pub(super) options: RunOptions,
}

/// The programs of a run.
pub(super) struct Programs {
    /// Token ids → residual stream.
    pub(super) embed: Program,
    /// One for each step of the plan.
    pub(super) steps: Vec<StepProgram>,
    /// Residual stream → logits of the last tokens.
    pub(super) head: Program,
    /// Logits → candidates.
    pub(super) best: Program,
}

/// The dispatches of a step, cut where its experts come in.
#[derive(Default)]
pub(super) struct StepProgram {
    /// Up to the choice of experts; the whole step where nothing is routed.
    pub(super) before: Program,
    /// The work of experts: none, one part, or two where attention is routed.
    pub(super) parts: Vec<Part>,
}

/// Some work of a step's experts, and what follows from it.
#[derive(Default)]
pub(super) struct Part {
    /// Computes the routes whose experts are in a slot and skips the others.
    pub(super) experts: Program,
    /// Needs them all.
    pub(super) after: Program,
}

impl StepProgram {
    /// All of it, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.before).chain(self.parts.iter().flat_map(|p| [&p.experts, &p.after]))
    }

    /// What follows the first experts.
    pub(super) fn rest(&self) -> impl Iterator<Item = &Program> {
        self.all().skip(2)
    }

    /// Adds a part; gives its experts.
    fn part(&mut self) -> &mut Program {
        self.parts.push(Part::default());
        let last = self.parts.len() - 1;
        &mut self.parts[last].experts
    }

    /// The end, where dispatches that need all experts so far go.
    fn end(&mut self) -> &mut Program {
        match self.parts.last_mut() {
            Some(part) => &mut part.after,
            None => &mut self.before,
        }
    }
}

/// A whole buffer as a binding.
fn all(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

impl Lower<'_> {
    pub(super) fn programs(&self) -> Result<Programs> {
        let mut embed = Program::default();
        self.embed(&mut embed)?;
        let mut steps = Vec::new();
        let mut last = None;
        for (number, step) in (0..).zip(&self.plan.steps) {
            let mut program = StepProgram::default();
            self.join(&mut program.before, last, step.norm.as_ref(), Span::Batch)?;
            match &step.work {
                Work::Attention(a) => self.attention(&mut program, number, step, a)?,
                Work::Ffn(f) => self.ffn(&mut program, number, step, f)?,
                Work::Convolution(_) | Work::Identity => unimplemented!("fast path"),
            }
            steps.push(program);
            last = Some(step);
        }
        let (mut head, mut best) = (Program::default(), Program::default());
        self.head(&mut head, last)?;
        self.best(&mut best)?;
        Ok(Programs { embed, steps, head, best })
    }

    /// Between tokens in `x`, `a`, `dense` and `routed`, in vec4.
    fn stride(&self) -> u32 {
        row(self.plan.width) / 4
    }

    fn vector(&self, name: Option<&str>) -> Result<u32> {
        name.map_or(Ok(NONE), |n| self.weights.vector(n))
    }

    /// Adds the result of step `last` to the stream, then normalises it for the next one.
    fn join(&self, program: &mut Program, last: Option<&Step>, norm: Option<&Norm>, span: Span) -> Result<()> {
        let mut params =
            join::Params { width: self.plan.width, stride: self.stride(), gate: NONE, bias: NONE, norm_bias: NONE, ..Default::default() };
        if let Some(step) = last {
            params.joins = 1;
            params.scale = step.scale;
            params.bias = self.vector(step.bias.as_deref())?;
            let (is_dense, gate) = match &step.work {
                Work::Attention(_) => (step.routed.is_none(), None),
                Work::Convolution(_) | Work::Identity => unimplemented!("fast path"),
                Work::Ffn(f) => (f.shared.is_some(), f.shared.as_ref().and_then(|s| s.weigh.as_ref())),
            };
            params.dense = is_dense.into();
            if step.routed.is_some() {
                params.routes = routes(self.plan, step);
            }
            if gate.is_some() {
                params.gate = 4 * self.gate_logits(step);
                params.gate_stride = 16;
            }
        }
        match norm {
            None => {}
            Some(Norm::Rms { weight, eps }) => {
                (params.norm, params.norm_weight, params.eps) = (1, self.weights.vector(weight)?, *eps);
            }
            Some(Norm::Layer { weight, bias, eps }) => {
                (params.norm, params.norm_weight, params.eps) = (2, self.weights.vector(weight)?, *eps);
                params.norm_bias = self.vector(bias.as_deref())?;
            }
        }
        let s = self.scratch;
        let buffers = join::Buffers {
            vectors: all(self.weights.vectors()),
            routed: all(&s.routed),
            weights: all(&s.weights),
            dense: all(&s.dense),
            gates: all(&s.scores),
            x: all(&s.x),
            a: all(&s.a),
        };
        program.push(self.device, join::kernel(self.device.lanes), buffers, move |frame| {
            let (first, count) = span.of(frame);
            (count > 0).then_some((join::Params { first, ..params }, [count, 1, 1]))
        })
    }
}

/// The kernels' number of an activation; 0 is none.
fn activation(a: Option<Activation>) -> u32 {
    match a {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::Gelu) => 2,
        Some(Activation::GeluTanh) => 3,
        Some(Activation::Relu) => 4,
        Some(Activation::Clamped { .. }) => unimplemented!("fast path"),
    }
}

/// A grid of `n` workgroups in x, folded over z where one dimension does not hold them, and `y`.
fn folded(n: u32, y: u32) -> [u32; 3] {
    const WIDE: u32 = 1 << 15;
    [n.min(WIDE), y, n.div_ceil(WIDE)]
}

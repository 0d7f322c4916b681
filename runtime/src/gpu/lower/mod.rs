//! From a plan to programs: each step becomes a handful of dispatches, recorded once for a run and replayed for every batch.
//!
//! One decoder layer of the common kind takes ten: `join, dense (q+k+v), heads, attend, dense (o)` and
//! `join, dense (router), route, expert (gate+up), expert (down)`.

mod attend;
mod attention;
mod convolution;
mod ffn;
mod head;
mod heads;
mod join;
mod product;
mod router;

use super::cache::Cache;
use super::device::Device;
use super::program::Program;
use super::scratch::{Scratch, row};
use super::slabs::Slabs;
use super::weights::Weights;
use crate::error::Result;
use crate::model::RunOptions;
use crate::plan::{Norm, Plan, Work};
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
    /// Token ids → streams.
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
            self.join(&mut program.before, last, (step.from, step.norm.as_ref()), Span::Batch)?;
            match &step.work {
                Work::Attention(a) => self.attention(&mut program, number, step, a)?,
                Work::Ffn(f) => self.ffn(&mut program, number, step, f)?,
                Work::Convolution(c) => self.convolution(&mut program.before, step, c)?,
                // Its result is its input, which is at hand.
                Work::Identity => {}
            }
            steps.push(program);
            last = Some(step);
        }
        let (mut head, mut best) = (Program::default(), Program::default());
        self.head(&mut head, last)?;
        self.best(&mut best)?;
        Ok(Programs { embed, steps, head, best })
    }

    /// Elements of a row of a stream, padded.
    fn row_of(&self, stream: u32) -> u32 {
        row(self.plan.stream_width(stream).unwrap_or(0))
    }

    /// Between tokens of a stream and of what comes of it, in vec4: `a`, `dense`, `routed`.
    fn stride(&self, stream: u32) -> u32 {
        self.row_of(stream) / 4
    }

    /// Where a vector begins, in vec4.
    fn vector(&self, name: Option<&str>) -> Result<u32> {
        name.map_or(Ok(NONE), |n| self.weights.vector(n))
    }

    /// Where a vector begins, in elements.
    fn elements(&self, name: Option<&str>) -> Result<u32> {
        Ok(name.map_or(Ok(None), |n| self.weights.vector(n).map(Some))?.map_or(NONE, |at| 4 * at))
    }
}

/// A norm as kernels know it: kind, gain, bias, epsilon.
fn parts_of(norm: Option<&Norm>) -> (u32, Option<&str>, Option<&str>, f32) {
    match norm {
        None => (0, None, None, 0.0),
        Some(Norm::Rms { weight, eps }) => (1, Some(weight), None, *eps),
        Some(Norm::Layer { weight, bias, eps }) => (2, Some(weight), bias.as_deref(), *eps),
    }
}

/// A grid of `n` workgroups in x, folded over z where one dimension does not hold them, and `y`.
fn folded(n: u32, y: u32) -> [u32; 3] {
    const WIDE: u32 = 1 << 15;
    [n.min(WIDE), y, n.div_ceil(WIDE)]
}

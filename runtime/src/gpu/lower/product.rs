//! Matrix products: dense ones, where several matrices share an input, and those of experts.

use hotset_shaders::{Form, Panels, dense_mat, dense_vec, expert_mat, expert_vec};

use super::{FEW, Lower, NONE, all, folded};
use crate::bundle::RecordLayout;
use crate::error::{Error, Result};
use crate::gpu::program::{Frame, Program};
use crate::gpu::weights::{Cut, Window, codec, units};
use crate::plan::{Activation, Linear, Role};

/// Which tokens of a batch take part.
#[derive(Clone, Copy)]
pub(super) enum Span {
    /// All of them.
    Batch,
    /// The last ones, which get logits.
    Outputs,
}

impl Span {
    /// First token and how many.
    pub(super) fn of(self, frame: &Frame) -> (u32, u32) {
        match self {
            Span::Batch => (0, frame.tokens),
            Span::Outputs => (frame.tokens - frame.outputs, frame.outputs),
        }
    }
}

/// One matrix of a product and where its rows go: first row of token 0 and distance between tokens, in vec4 of the output.
pub(super) struct Factor<'a> {
    pub(super) weight: &'a str,
    pub(super) bias: Option<&'a str>,
    pub(super) out: u32,
    pub(super) stride: u32,
}

impl<'a> Factor<'a> {
    pub(super) fn new(linear: &'a Linear, out: u32, stride: u32) -> Factor<'a> {
        Factor { weight: &linear.weight, bias: linear.bias.as_deref(), out, stride }
    }
}

/// `scale · activation(W x + b)` for each factor; gated: `activation(G x + g) ⊙ (U x + u)` for the two factors.
pub(super) struct Product<'a> {
    pub(super) factors: Vec<Factor<'a>>,
    pub(super) gated: bool,
    pub(super) activation: Option<Activation>,
    pub(super) scale: f32,
    /// Present when the only factor is a stack of matrices, each with its own columns of x.
    pub(super) blocks: Option<Blocks>,
    /// Buffer and distance between tokens, in vec4.
    pub(super) x: (&'a wgpu::Buffer, u32),
    pub(super) y: &'a wgpu::Buffer,
    pub(super) span: Span,
}

/// How a stack of matrices is cut.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Of one matrix.
    pub(super) panels: u32,
    /// Between the columns of x that one and the next are multiplied with, in vec4.
    pub(super) x: u32,
}

impl<'a> Product<'a> {
    /// `W x + b` for all tokens of a batch.
    pub(super) fn new(factors: Vec<Factor<'a>>, x: (&'a wgpu::Buffer, u32), y: &'a wgpu::Buffer) -> Product<'a> {
        Product { factors, gated: false, activation: None, scale: 1.0, blocks: None, x, y, span: Span::Batch }
    }
}

/// `activation(W x + b)`, or `activation(G x + g) ⊙ (U x + u)`, of each route's expert.
pub(super) struct Expansion<'a> {
    pub(super) pool: u32,
    pub(super) first: Role,
    /// Present when gated.
    pub(super) second: Option<Role>,
    pub(super) activation: Option<Activation>,
    /// Routes of a token.
    pub(super) routes: u32,
    /// Consecutive routes that read one row of x: the routes of a token, or 1.
    pub(super) share: u32,
    /// Buffer and distance between rows, in vec4.
    pub(super) x: (&'a wgpu::Buffer, u32),
    pub(super) y: (&'a wgpu::Buffer, u32),
    /// First row of y, in vec4.
    pub(super) out: u32,
    /// 1 + the step whose stall does not keep it from computing what is there; 0: none.
    pub(super) early: u32,
}

impl Lower<'_> {
    pub(super) fn product(&self, program: &mut Program, p: &Product<'_>) -> Result<()> {
        let names: Vec<&str> = p.factors.iter().map(|f| f.weight).collect();
        let cut = match p.blocks {
            None if p.gated => Cut::Together,
            None => Cut::Panels,
            Some(b) => Cut::Blocks(b.panels),
        };
        let (activation, alpha, limit) = activation(p.activation);
        for window in self.weights.group(self.device, &names, cut)?.iter() {
            for parts in window.parts.chunks(3) {
                let mut params = dense_vec::Params {
                    chunks: window.chunks,
                    columns: window.columns,
                    base: p.blocks.map_or(0, |b| parts[0].first_panel / b.panels * b.x),
                    x_stride: p.x.1,
                    activation,
                    alpha,
                    limit,
                    scale: p.scale,
                    block: p.blocks.map_or(0, |b| b.panels),
                    block_x: p.blocks.map_or(0, |b| b.x),
                    ..Default::default()
                };
                let mut panels = 0;
                for (i, segment) in params.segments.iter_mut().enumerate() {
                    if let Some(part) = parts.get(i) {
                        let f = &p.factors[part.matrix];
                        let bias = match f.bias {
                            None => NONE,
                            Some(b) => self.weights.vector(b)? + 4 * part.first_panel,
                        };
                        // Gated matrices are read side by side, others one after the other.
                        panels = if p.gated { part.panels } else { panels + part.panels };
                        let out = f.out + 4 * part.first_panel;
                        *segment = dense_vec::Segment { panels, words: part.words, scales: part.scales, bias, out, stride: f.stride };
                    } else {
                        segment.panels = panels;
                    }
                }
                self.dense(program, p, window, params, panels)?;
            }
        }
        Ok(())
    }

    fn dense(&self, program: &mut Program, p: &Product<'_>, window: &Window, params: dense_vec::Params, panels: u32) -> Result<()> {
        let form = if p.gated { Form::Gated } else { Form::Plain };
        let (weights, vectors, x, y) = (all(&window.buffer), all(self.weights.vectors()), all(p.x.0), all(p.y));
        let (span, x_stride) = (p.span, p.x.1);
        // Blocks are an axis of the grid of their own.
        let blocks = p.blocks.map(|b| panels / b.panels);
        let panels = p.blocks.map_or(panels, |b| b.panels);
        let grid = move |n: u32, y: u32| blocks.map_or_else(|| folded(n, y), |z| [n, y, z]);
        let (group, groups) = self.panels(panels, blocks.unwrap_or(1));
        let kind = self.device.arithmetic.product(window.codec);
        let few = dense_vec::Buffers { weights: weights.clone(), vectors: vectors.clone(), x: x.clone(), y: y.clone() };
        program.push(self.device, dense_vec::kernel(kind, self.device.lanes, form, group), few, move |frame| {
            let (first, tokens) = span.of(frame);
            let params = dense_vec::Params { base: params.base + first * x_stride, tokens, ..params };
            (1..=FEW).contains(&tokens).then_some((params, grid(groups, tokens)))
        })?;
        let many = dense_mat::Buffers { weights, vectors, x, y };
        let columns = panels.div_ceil(if p.gated { 2 } else { 4 });
        program.push(self.device, dense_mat::kernel(kind, form), many, move |frame| {
            let (first, tokens) = span.of(frame);
            // The two kernels share their interface.
            let params = dense_vec::Params { base: params.base + first * x_stride, tokens, ..params };
            (tokens > FEW).then_some((bytemuck::must_cast(params), grid(columns, tokens.div_ceil(32))))
        })
    }

    pub(super) fn experts(&self, program: &mut Program, e: &Expansion<'_>) -> Result<()> {
        let (slab, pool) = (&self.slabs.pools[e.pool as usize], &self.plan.pools[e.pool as usize]);
        let first = self.matrix(e.pool, e.first)?;
        let second = e.second.map_or(Ok(first), |r| self.matrix(e.pool, r))?;
        let form = if e.second.is_some() { Form::Gated } else { Form::Plain };
        let (routes, experts) = (e.routes, pool.experts());
        let (kind, s) = (self.device.arithmetic.product(codec(pool.codec)), self.scratch);
        let (group, groups) = self.panels(first.panels, routes);
        let (activation, alpha, limit) = activation(e.activation);
        let tables = [slab.table, slab.table + self.slabs.late];
        for window in &slab.windows {
            let params = expert_vec::Params {
                first: first.at,
                second: second.at,
                chunks: first.chunks,
                columns: first.columns,
                panels: first.panels,
                activation,
                alpha,
                limit,
                routes: 0,
                share: e.share,
                x_stride: e.x.1,
                y_stride: e.y.1,
                out: e.out,
                table: slab.table,
                first_slot: window.first,
                slots: window.slots,
                slot_stride: slab.stride,
                early: e.early,
            };
            let (weights, slot_of, ids, x, y) = (all(&window.buffer), all(&self.slabs.slot_of), all(&s.ids), all(e.x.0), all(e.y.0));
            let few =
                expert_vec::Buffers { weights: weights.clone(), slot_of: slot_of.clone(), ids: ids.clone(), x: x.clone(), y: y.clone() };
            program.push(self.device, expert_vec::kernel(kind, self.device.lanes, form, group), few, move |frame| {
                let table = tables[usize::from(frame.late)];
                let params = expert_vec::Params { routes: frame.tokens * routes, table, ..params };
                (frame.tokens <= FEW).then_some((params, [groups, params.routes, 1]))
            })?;
            let many = expert_mat::Buffers { weights, slot_of, ids, x, y, sorted: all(&s.sorted), tiles: all(&s.tiles) };
            let columns = first.panels.div_ceil(if e.second.is_some() { 2 } else { 4 });
            program.push(self.device, expert_mat::kernel(kind, form), many, move |frame| {
                let total = frame.tokens * routes;
                let params = bytemuck::must_cast(expert_vec::Params { routes: total, table: tables[usize::from(frame.late)], ..params });
                (frame.tokens > FEW).then_some((params, [columns, total / 32 + experts.min(total), 1]))
            })?;
        }
        Ok(())
    }

    /// How many panels a workgroup takes, and how many workgroups that makes: four share reads, as long as enough workgroups are left to
    /// fill the device.
    fn panels(&self, panels: u32, routes: u32) -> (Panels, u32) {
        /// Enough for the largest GPUs to have something to do while others wait for memory.
        const ENOUGH: u32 = 256;
        let fours = panels.div_ceil(4);
        if !self.device.report.hardware || fours * routes >= ENOUGH { (Panels::Four, fours) } else { (Panels::One, panels) }
    }

    /// Where the matrix of a role is inside a record, in vec4.
    fn matrix(&self, pool: u32, role: Role) -> Result<RecordMatrix> {
        let pool = &self.plan.pools[pool as usize];
        let none = || Error::Device(format!("experts of {:?} have no {role:?}", pool.name));
        let record = RecordLayout::of(pool, self.plan.width).ok_or_else(none)?;
        let (layout, at) = record.find(role).ok_or_else(none)?;
        let bias = record.find_bias(role).map_or(Ok(NONE), |at| units(at as u64))?;
        Ok(RecordMatrix {
            at: expert_vec::Matrix { words: units(at as u64)?, scales: units((at + layout.scales_at()) as u64)?, bias },
            chunks: units(layout.padded_cols() as u64 * 2)?,
            columns: units(layout.cols as u64 * 16)?,
            panels: units(layout.panels() as u64 * 16)?,
        })
    }
}

#[derive(Clone, Copy)]
struct RecordMatrix {
    at: expert_vec::Matrix,
    /// Of 8 columns in a row.
    chunks: u32,
    /// Without padding.
    columns: u32,
    panels: u32,
}

/// The kernels' number of an activation, 0 being none, and its two parameters.
fn activation(a: Option<Activation>) -> (u32, f32, f32) {
    match a {
        None => (0, 0.0, 0.0),
        Some(Activation::Silu) => (1, 0.0, 0.0),
        Some(Activation::Gelu) => (2, 0.0, 0.0),
        Some(Activation::GeluTanh) => (3, 0.0, 0.0),
        Some(Activation::Relu) => (4, 0.0, 0.0),
        Some(Activation::Clamped { alpha, limit }) => (5, alpha, limit),
    }
}

//! Attention steps: project, prepare heads and rows, attend, project back.

use hotset_shaders::{collect, pack};

use super::{Expansion, Lower, Product, StepProgram, all, product::Blocks, product::Factor};
use crate::codec::PANEL;
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::{Projected, query_sets, routes, row};
use crate::plan::{Attention, Latent, Linear, Part, Role, Routed, State, Step};

/// An attention step and what it works with.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) number: u32,
    pub(super) step: &'a Step,
    pub(super) a: &'a Attention,
    pub(super) state: &'a State,
    /// Query sets of a token.
    pub(super) sets: u32,
    /// Between tokens of the input and the result, in vec4.
    pub(super) stride: u32,
    pub(super) at: Projected,
}

impl Lower<'_> {
    pub(super) fn attention(&self, program: &mut StepProgram, number: u32, step: &Step, a: &Attention) -> Result<()> {
        let (state, sets) = (&self.plan.states[a.state as usize], query_sets(self.plan, step, a, self.options.routing));
        let at = Projected::new(a, state, sets, self.scratch.batch);
        let site = Site { number, step, a, state, sets, stride: self.stride(step.from), at };
        self.shared(&mut program.before, &site)?;
        if let Some(routed) = &step.routed {
            self.route(&mut program.before, number, step, routed, None)?;
            self.projected(program.part(), &site, routed)?;
        }
        let end = program.end();
        if let Part::Sum { weighted } = a.q {
            self.collect(end, &site, weighted)?;
        }
        self.append(end, &site)?;
        self.heads(end, &site)?;
        self.attend(end, &site)?;
        match (&a.o, &step.routed) {
            (Part::Shared(o), _) => {
                let s = self.scratch;
                let x = match &a.latent {
                    None => (&s.mixed, row(a.heads * a.head_dim) / 4),
                    Some(l) => self.expand(end, a, l)?,
                };
                self.product(end, &Product::new(vec![Factor::new(o, 0, site.stride)], x, &s.dense))
            }
            (_, Some(routed)) => self.outputs(program.part(), &site, routed),
            (_, None) => Ok(()),
        }
    }

    /// What matrices that all tokens share make of the input.
    fn shared(&self, program: &mut Program, site: &Site<'_>) -> Result<()> {
        let (s, a, at) = (self.scratch, site.a, &site.at);
        let input = (&s.a, site.stride);
        let mut factors = Vec::new();
        match &a.q {
            Part::Shared(q) if a.latent.is_none() => factors.push(Factor::new(q, 0, at.q_stride / 4)),
            Part::Shared(q) => self.queries(program, site, q, input)?,
            Part::LowRank { down, norm, up } => {
                let rank = self.rows_of(&down.weight)?;
                let stride = row(rank) / 4;
                self.product(program, &Product::new(vec![Factor::new(down, 0, stride)], input, &s.hidden))?;
                self.norm(program, norm, (rank, stride), &s.hidden, &s.mixed)?;
                self.queries(program, site, up, (&s.mixed, stride))?;
            }
            Part::Expert | Part::Sum { .. } | Part::Input => {}
        }
        for (part, out) in [(&a.k, at.k), (&a.v, at.v)].into_iter().take(if site.state.tied { 1 } else { 2 }) {
            if let Part::Shared(linear) = part {
                factors.push(Factor::new(linear, out / 4, at.kv_stride / 4));
            }
        }
        if factors.is_empty() { Ok(()) } else { self.product(program, &Product::new(factors, input, &s.projected)) }
    }

    /// Queries `q · x`: in `projected`; or those of a latent as they are in `hidden`, and mapped to it in `projected`.
    fn queries(&self, program: &mut Program, site: &Site<'_>, q: &Linear, x: (&wgpu::Buffer, u32)) -> Result<()> {
        let (s, a, stride) = (self.scratch, site.a, site.at.q_stride / 4);
        let Some(l) = &a.latent else {
            return self.product(program, &Product::new(vec![Factor::new(q, 0, stride)], x, &s.projected));
        };
        let head = l.query + a.head_dim - l.rank;
        let width = row(a.heads * head);
        self.product(program, &Product::new(vec![Factor::new(q, 0, width / 4)], x, &s.hidden))?;
        // A head's columns begin at a whole vec4.
        let (x, between) = if head.is_multiple_of(4) {
            ((&s.hidden, width / 4), head / 4)
        } else {
            let padded = row(l.query);
            self.pack(program, (a.heads, l.query), (&s.hidden, head, width), (&s.mixed, padded, a.heads * padded))?;
            ((&s.mixed, a.heads * padded / 4), padded / 4)
        };
        self.stacked(program, (&l.absorb, l.rank), between, x, (&s.projected, stride))
    }

    /// Values of a latent from what its heads mixed; where they are, side by side.
    fn expand(&self, program: &mut Program, a: &Attention, l: &Latent) -> Result<(&wgpu::Buffer, u32)> {
        let (s, rank, head) = (self.scratch, row(l.rank), Latent::padded(l.value));
        let (before, width) = (row(a.heads * head), row(a.heads * l.value));
        self.stacked(program, (&l.expand, l.value), rank / 4, (&s.mixed, a.heads * rank / 4), (&s.hidden, before / 4))?;
        if head == l.value {
            return Ok((&s.hidden, before / 4));
        }
        self.pack(program, (a.heads, l.value), (&s.hidden, head, before), (&s.mixed, l.value, width))?;
        Ok((&s.mixed, width / 4))
    }

    /// Each head's matrix of a stack, so many rows of it, times its own columns of x, `between` vec4 apart.
    fn stacked(
        &self,
        program: &mut Program,
        (stack, rows): (&str, u32),
        between: u32,
        x: (&wgpu::Buffer, u32),
        (y, stride): (&wgpu::Buffer, u32),
    ) -> Result<()> {
        let blocks = Blocks { panels: Latent::padded(rows) / PANEL as u32, x: between };
        let factor = Factor { weight: stack, bias: None, out: 0, stride };
        self.product(program, &Product { blocks: Some(blocks), ..Product::new(vec![factor], x, y) })
    }

    /// Moves `width` elements of each of some heads. Buffers with the distances between heads and between tokens.
    fn pack(
        &self,
        program: &mut Program,
        (heads, width): (u32, u32),
        (before, from_head, from_token): (&wgpu::Buffer, u32, u32),
        (after, to_head, to_token): (&wgpu::Buffer, u32, u32),
    ) -> Result<()> {
        let params = pack::Params { width, from_head, from_token, to_head, to_token };
        let buffers = pack::Buffers { before: all(before), after: all(after) };
        program.push(self.device, pack::kernel(), buffers, move |f| Some((params, [heads, f.tokens, 1])))
    }

    /// What experts make of the input: queries, or keys and values too.
    fn projected(&self, program: &mut Program, site: &Site<'_>, routed: &Routed) -> Result<()> {
        let (s, at, routes) = (self.scratch, &site.at, routes(self.plan, site.step, self.options.routing));
        let (y, roles): (_, &[(Role, u32)]) = match &site.a.q {
            Part::Sum { .. } => (&s.hidden, &[(Role::Query, 0), (Role::Key, at.k), (Role::Value, at.v)]),
            _ if site.state.grouped => (&s.projected, &[(Role::Query, 0), (Role::Key, at.k), (Role::Value, at.v)]),
            _ => (&s.projected, &[(Role::Query, 0)]),
        };
        for &(role, out) in roles {
            let expansion = Expansion {
                pool: routed.pool,
                first: role,
                second: None,
                activation: None,
                routes,
                share: routes,
                x: (&s.a, site.stride),
                y: (y, at.q_stride / 4),
                out: out / 4,
                early: 1 + site.number,
            };
            self.experts(program, &expansion)?;
        }
        Ok(())
    }

    /// Adds up the routes' projections.
    fn collect(&self, program: &mut Program, site: &Site<'_>, weighted: bool) -> Result<()> {
        let s = self.scratch;
        let stride = site.at.q_stride / 4;
        let params = collect::Params { routes: routes(self.plan, site.step, self.options.routing), stride, weighted: weighted.into() };
        let buffers = collect::Buffers { rows: all(&s.hidden), ids: all(&s.ids), weights: all(&s.weights), sums: all(&s.projected) };
        program.push(self.device, collect::kernel(), buffers, move |f| Some((params, [stride.div_ceil(64), f.tokens, 1])))
    }

    /// What experts make of mixed values, into `routed`.
    fn outputs(&self, program: &mut Program, site: &Site<'_>, routed: &Routed) -> Result<()> {
        let (s, routes) = (self.scratch, routes(self.plan, site.step, self.options.routing));
        let outputs = Expansion {
            pool: routed.pool,
            first: Role::Output,
            second: None,
            activation: None,
            routes,
            share: routes / site.sets,
            x: (&s.mixed, row(site.a.heads * site.a.head_dim) / 4),
            y: (&s.routed, site.stride),
            out: 0,
            early: 0,
        };
        self.experts(program, &outputs)
    }
}

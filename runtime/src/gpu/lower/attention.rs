//! Attention steps: project, prepare heads and caches, attend, project back.

use hotset_shaders::{Kind, attend, heads, merge};

use super::{Expansion, Lower, NONE, Product, Span, StepProgram, all, product::Factor};
use crate::error::Result;
use crate::gpu::program::{Frame, Program};
use crate::gpu::scratch::{Projected, SPLITS, routes, row};
use crate::gpu::weights::padded_rows;
use crate::plan::{Attention, AttentionKind, Norm, Part, Role, Step};

/// Keys of a block of `attend`: splits are whole blocks.
const BLOCK: u32 = 256;

impl Lower<'_> {
    pub(super) fn attention(&self, program: &mut StepProgram, number: u32, step: &Step, a: &Attention) -> Result<()> {
        let (s, stride, sets) = (self.scratch, self.stride(), routes(self.plan, step));
        let state = &self.plan.states[a.state as usize];
        let at = Projected::new(a, state.kv_heads, sets, s.batch);
        let query = a.heads * a.head_dim;

        let mut factors = Vec::new();
        for (part, out, stride) in [(&a.q, 0, at.q_stride), (&a.k, at.k, at.kv_stride), (&a.v, at.v, at.kv_stride)] {
            if let Part::Shared(linear) = part {
                factors.push(Factor::new(linear, out / 4, stride / 4));
            }
        }
        if state.tied && matches!(a.v, Part::Shared(_)) {
            factors.pop();
        }
        if !factors.is_empty() {
            let product = Product {
                factors,
                gated: false,
                activation: None,
                scale: 1.0,
                x: &s.a,
                x_stride: stride,
                y: &s.projected,
                span: Span::Batch,
            };
            self.product(&mut program.before, &product)?;
        }
        if let Some(routed) = &step.routed {
            self.route(&mut program.before, number, step, routed, None)?;
            let queries = Expansion {
                pool: routed.pool,
                first: Role::Query,
                second: None,
                activation: None,
                routes: sets,
                share: sets,
                x: &s.a,
                x_stride: stride,
                y: &s.projected,
                y_stride: padded_rows(query) / 4,
                early: 1 + number,
            };
            self.experts(program.part(), &queries)?;
        }
        self.heads(program.end(), a, &at, sets)?;
        self.attend(program.end(), a, sets)?;

        let width = row(query) / 4;
        match (&a.o, &step.routed) {
            (Part::Shared(o), _) => {
                let product = Product {
                    factors: vec![Factor::new(o, 0, stride)],
                    gated: false,
                    activation: None,
                    scale: 1.0,
                    x: &s.mixed,
                    x_stride: width,
                    y: &s.dense,
                    span: Span::Batch,
                };
                self.product(program.end(), &product)
            }
            (_, Some(routed)) => {
                let outputs = Expansion {
                    pool: routed.pool,
                    first: Role::Output,
                    second: None,
                    activation: None,
                    routes: sets,
                    share: 1,
                    x: &s.mixed,
                    x_stride: width,
                    y: &s.routed,
                    y_stride: stride,
                    early: 0,
                };
                self.experts(program.part(), &outputs)
            }
            (_, None) => Ok(()),
        }
    }

    /// Clip, norms, rotation; keys and values into the cache.
    fn heads(&self, program: &mut Program, a: &Attention, at: &Projected, sets: u32) -> Result<()> {
        let (s, state, cache) = (self.scratch, &self.plan.states[a.state as usize], &self.caches[a.state as usize]);
        let input = a.k == Part::Input;
        let (turns, pairs) = a.rotation.map_or((0, 0), |r| self.turns(r));
        let params = heads::Params {
            heads: a.heads,
            kv_heads: state.kv_heads,
            head_dim: a.head_dim,
            head_stride: a.head_dim.next_multiple_of(4),
            routes: sets,
            q_stride: at.q_stride,
            k: if input { 0 } else { at.k },
            v: if input { 0 } else { at.v },
            kv_stride: if input { self.stride() * 4 } else { at.kv_stride },
            kv_input: input.into(),
            clip: a.clip.unwrap_or(f32::MAX),
            q_norm: self.head_norm(a.q_norm.as_ref(), a.heads, a.head_dim)?,
            k_norm: self.head_norm(a.k_norm.as_ref(), state.kv_heads, a.head_dim)?,
            turns,
            pairs,
            position: 0,
            capacity: cache.capacity,
            tied: state.tied.into(),
        };
        let units = |full: u32, heads: u32| if full == 1 { 1 } else { heads };
        let values = if state.tied { 0 } else { state.kv_heads };
        let units = units(params.q_norm.full, a.heads) * sets + units(params.k_norm.full, state.kv_heads) + values;
        let buffers = heads::Buffers {
            vectors: all(self.weights.vectors()),
            turns: all(&s.turns),
            projected: all(&s.projected),
            a: all(&s.a),
            queries: all(&s.queries),
            keys: all(&cache.keys),
            values: all(&cache.values),
        };
        program.push(self.device, heads::kernel(self.device.lanes), buffers, move |frame| {
            Some((heads::Params { position: frame.position, ..params }, [units, frame.tokens, 1]))
        })
    }

    /// Where the cosines and sines of rotation `r` begin, in pairs, and how many a token has.
    fn turns(&self, r: u32) -> (u32, u32) {
        let pairs = |r: &crate::plan::Rotation| u32::try_from(r.frequencies.len()).unwrap_or(0);
        let before: u32 = self.plan.rotations[..r as usize].iter().map(pairs).sum();
        (before * self.scratch.batch, pairs(&self.plan.rotations[r as usize]))
    }

    fn head_norm(&self, norm: Option<&Norm>, heads: u32, head_dim: u32) -> Result<heads::Norm> {
        let Some(norm) = norm else {
            return Ok(heads::Norm { bias: NONE, ..Default::default() });
        };
        let (kind, bias, eps) = match norm {
            Norm::Rms { eps, .. } => (1, None, *eps),
            Norm::Layer { bias, eps, .. } => (2, bias.as_deref(), *eps),
        };
        let elements = |name: &str| Ok::<u32, crate::Error>(4 * self.weights.vector(name)?);
        let full = self.weights.len(norm.weight())? == heads * head_dim;
        Ok(heads::Norm { kind, full: full.into(), weight: elements(norm.weight())?, bias: bias.map_or(Ok(NONE), elements)?, eps })
    }

    fn attend(&self, program: &mut Program, a: &Attention, sets: u32) -> Result<()> {
        let (s, state, cache) = (self.scratch, &self.plan.states[a.state as usize], &self.caches[a.state as usize]);
        let kind = match a.kind {
            AttentionKind::Softmax => Kind::Softmax,
            AttentionKind::StickBreaking => Kind::StickBreaking,
        };
        let window = cache.window;
        let params = attend::Params {
            heads: a.heads,
            share: a.heads / state.kv_heads,
            head_dim: a.head_dim,
            head_stride: a.head_dim.div_ceil(4),
            kv_heads: state.kv_heads,
            routes: sets,
            position: 0,
            capacity: cache.capacity,
            window,
            splits: 1,
            split: u32::MAX - BLOCK,
            scale: a.scale,
            out_stride: row(a.heads * a.head_dim),
            least: if self.options.stick_epsilon > 0.0 { self.options.stick_epsilon.ln() } else { f32::MIN },
        };
        let values = if state.tied { &cache.keys } else { &cache.values };
        let buffers = |mixed| attend::Buffers {
            queries: all(&s.queries),
            keys: all(&cache.keys),
            values: all(values),
            mixed: all(mixed),
            stats: all(&s.stats),
        };
        let kernel = || attend::kernel(kind, self.device.lanes);
        // Many queries keep the device busy by themselves; a single one is split.
        program.push(self.device, kernel(), buffers(&s.mixed), move |frame| {
            let params = attend::Params { position: frame.position, ..params };
            (splits(frame, window).0 == 1).then_some((params, [params.heads, frame.tokens * sets, 1]))
        })?;
        program.push(self.device, kernel(), buffers(&s.parts), move |frame| {
            let (splits, split) = splits(frame, window);
            let out_stride = params.heads * splits * params.head_dim;
            let params = attend::Params { position: frame.position, splits, split, out_stride, ..params };
            (splits > 1).then_some((params, [params.heads * splits, sets, 1]))
        })?;
        let buffers = merge::Buffers { parts: all(&s.parts), stats: all(&s.stats), mixed: all(&s.mixed) };
        program.push(self.device, merge::kernel(kind), buffers, move |frame| {
            let (splits, _) = splits(frame, window);
            let params = merge::Params { heads: params.heads, head_dim: params.head_dim, splits, out_stride: params.out_stride };
            (splits > 1).then_some((params, [params.heads, sets, 1]))
        })
    }
}

/// Splits of the visible keys and keys of each.
fn splits(frame: &Frame, window: u32) -> (u32, u32) {
    let visible = (frame.position + frame.tokens).min(window);
    if frame.tokens > 1 || visible <= BLOCK {
        return (1, u32::MAX - BLOCK);
    }
    let split = visible.div_ceil(SPLITS).next_multiple_of(BLOCK);
    (visible.div_ceil(split), split)
}

//! Between steps: what the last one gives its stream, and the normalised input of the next.

use hotset_shaders::join;

use super::{Lower, NONE, Span, all, parts_of};
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::routes;
use crate::plan::{Join, Norm, Step, Work};

/// No result at all.
const NOTHING: join::Params = join::Params {
    width: 0,
    stride: 0,
    first: 0,
    joins: 0,
    prepares: 0,
    routes: 0,
    dense: 0,
    gate: NONE,
    gate_stride: 0,
    bias: NONE,
    scale: 0.0,
    norm: 0,
    norm_weight: NONE,
    norm_bias: NONE,
    eps: 0.0,
};

/// Rows that are joined to and normalised.
struct Rows<'a> {
    width: u32,
    /// Between tokens, in vec4.
    stride: u32,
    x: &'a wgpu::Buffer,
    a: &'a wgpu::Buffer,
    /// The part of the result that is not routed.
    dense: &'a wgpu::Buffer,
}

impl Lower<'_> {
    /// Gives the result of step `last` to its stream, then normalises stream `next`: at once where they are the same.
    pub(super) fn join(&self, program: &mut Program, last: Option<&Step>, next: (u32, Option<&Norm>), span: Span) -> Result<()> {
        let params = match last {
            None => NOTHING,
            Some(step) => self.result(step)?,
        };
        let (stream, norm) = next;
        // The result of the identity is `a` itself, which must be read before it is written.
        if let Some(step) = last.filter(|s| s.to != stream || s.work == Work::Identity) {
            let mut rows = self.rows(step.to);
            if step.work == Work::Identity {
                (rows.dense, rows.a) = (rows.a, rows.dense);
            }
            self.joined(program, &rows, params, span)?;
            return self.normalised(program, &self.rows(stream), norm, NOTHING, span);
        }
        self.normalised(program, &self.rows(stream), norm, params, span)
    }

    /// `a = norm(x)` for rows of `width` elements that lie `stride` vec4 apart.
    pub(super) fn norm(
        &self,
        program: &mut Program,
        norm: &Norm,
        (width, stride): (u32, u32),
        x: &wgpu::Buffer,
        a: &wgpu::Buffer,
    ) -> Result<()> {
        let rows = Rows { width, stride, x, a, dense: &self.scratch.dense };
        self.normalised(program, &rows, Some(norm), NOTHING, Span::Batch)
    }

    /// Rows of `width` elements become zero.
    pub(super) fn clear(&self, program: &mut Program, (width, stride): (u32, u32), x: &wgpu::Buffer) -> Result<()> {
        let s = self.scratch;
        let replaced = join::Params { joins: 2, ..NOTHING };
        self.joined(program, &Rows { width, stride, x, a: &s.a, dense: &s.dense }, replaced, Span::Batch)
    }

    fn rows(&self, stream: u32) -> Rows<'_> {
        let s = self.scratch;
        Rows {
            width: self.plan.stream_width(stream).unwrap_or(0),
            stride: self.stride(stream),
            x: &s.streams[stream as usize],
            a: &s.a,
            dense: &s.dense,
        }
    }

    /// What a step gives its stream.
    fn result(&self, step: &Step) -> Result<join::Params> {
        let gate = match &step.work {
            Work::Ffn(f) => f.shared.as_ref().and_then(|s| s.weigh.as_ref()),
            Work::Attention(_) | Work::Convolution(_) | Work::Identity => None,
        };
        let dense = match &step.work {
            Work::Ffn(f) => f.shared.is_some(),
            Work::Attention(_) => step.routed.is_none(),
            Work::Convolution(_) | Work::Identity => true,
        };
        Ok(join::Params {
            joins: match step.join {
                Join::Add => 1,
                Join::Replace => 2,
            },
            routes: if step.routed.is_some() { routes(self.plan, step, self.options.routing) } else { 0 },
            dense: dense.into(),
            gate: gate.map_or(NONE, |_| 4 * self.gate_logits(step)),
            gate_stride: 16,
            bias: self.vector(step.bias.as_deref())?,
            scale: step.scale,
            ..NOTHING
        })
    }

    fn normalised(&self, program: &mut Program, rows: &Rows<'_>, norm: Option<&Norm>, params: join::Params, span: Span) -> Result<()> {
        let (kind, weight, bias, eps) = parts_of(norm);
        let (norm_weight, norm_bias) = (self.vector(weight)?, self.vector(bias)?);
        self.joined(program, rows, join::Params { prepares: 1, norm: kind, norm_weight, norm_bias, eps, ..params }, span)
    }

    fn joined(&self, program: &mut Program, rows: &Rows<'_>, params: join::Params, span: Span) -> Result<()> {
        let s = self.scratch;
        let buffers = join::Buffers {
            vectors: all(self.weights.vectors()),
            routed: all(&s.routed),
            weights: all(&s.weights),
            dense: all(rows.dense),
            gates: all(&s.scores),
            x: all(rows.x),
            a: all(rows.a),
        };
        let params = join::Params { width: rows.width, stride: rows.stride, ..params };
        program.push(self.device, join::kernel(self.device.lanes), buffers, move |frame| {
            let (first, count) = span.of(frame);
            (count > 0).then_some((join::Params { first, ..params }, [count, 1, 1]))
        })
    }
}

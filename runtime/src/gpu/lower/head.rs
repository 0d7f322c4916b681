//! Both ends: token ids into the streams, the residual stream into logits and candidates.

use hotset_shaders::{best_merge, best_slice, embed, penalise};

use super::{Lower, NONE, Product, Span, all, product::Factor};
use crate::codec::PANEL;
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::{row, slices};
use crate::gpu::weights::{Cut, padded_rows};
use crate::plan::Step;

impl Lower<'_> {
    /// Every stream of a batch's tokens as it is before the first step, and what routers remember: nothing.
    pub(super) fn embed(&self, program: &mut Program) -> Result<()> {
        let s = self.scratch;
        let beside = self.plan.streams.iter().map(|s| (s.embedding.as_ref(), s.width));
        let streams = std::iter::once((Some(&self.plan.embedding), self.plan.width)).chain(beside);
        for ((embedding, width), x) in streams.zip(&s.streams) {
            match embedding {
                None => self.clear(program, (width, row(width) / 4), x)?,
                Some(e) => {
                    self.look_up(program, &e.table, e.scale, width, x, false)?;
                    e.positions.as_ref().map_or(Ok(()), |p| self.look_up(program, p, 1.0, width, x, true))?;
                }
            }
        }
        self.plan.memories.iter().zip(&s.memories).try_for_each(|(&g, h)| self.clear(program, (g, row(g) / 4), h))
    }

    /// Rows of a table, by token id; or added, by position.
    fn look_up(&self, program: &mut Program, table: &str, scale: f32, width: u32, x: &wgpu::Buffer, by_position: bool) -> Result<()> {
        for window in self.weights.group(self.device, &[table], Cut::Panels)?.iter() {
            for part in &window.parts {
                let params = embed::Params {
                    words: part.words,
                    scales: part.scales,
                    chunks: window.chunks,
                    first: part.first_panel * PANEL as u32,
                    rows: part.panels * PANEL as u32,
                    stride: row(width) / 4,
                    scale,
                    position: NONE,
                };
                let buffers = embed::Buffers { weights: all(&window.buffer), tokens: all(&self.scratch.tokens), x: all(x) };
                program.push(self.device, embed::kernel(window.codec), buffers, move |f| {
                    let position = if by_position { f.position } else { NONE };
                    Some((embed::Params { position, ..params }, [f.tokens, 1, 1]))
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn head(&self, program: &mut Program, last: Option<&Step>) -> Result<()> {
        let (s, head) = (self.scratch, &self.plan.head);
        self.join(program, last, (0, Some(&head.norm)), Span::Outputs)?;
        let output = Factor::new(&head.output, 0, padded_rows(self.plan.vocab) / 4);
        let product = Product::new(vec![output], (&s.a, self.stride(0)), &s.logits);
        self.product(program, &Product { scale: head.scale, span: Span::Outputs, ..product })
    }

    /// Candidates from the first row of logits.
    pub(super) fn best(&self, program: &mut Program) -> Result<()> {
        let (s, vocab) = (self.scratch, self.plan.vocab);
        let (slice, slices) = slices(vocab);
        let buffers = penalise::Buffers { tokens: all(&s.penalised), logits: all(&s.logits) };
        program.push(self.device, penalise::kernel(), buffers, |frame| {
            let params = penalise::Params { count: frame.penalised, penalty: frame.penalty };
            (frame.penalised > 0).then_some((params, [frame.penalised.div_ceil(64).min(1 << 10), 1, 1]))
        })?;
        let buffers = best_slice::Buffers { logits: all(&s.logits), candidates: all(&s.candidates), stats: all(&s.slice_stats) };
        program.push(self.device, best_slice::kernel(self.device.lanes), buffers, move |frame| {
            let params = best_slice::Params { vocab, slice, count: frame.candidates, inverse_temperature: frame.inverse_temperature };
            Some((params, [slices, 1, 1]))
        })?;
        let buffers = best_merge::Buffers { candidates: all(&s.candidates), stats: all(&s.slice_stats), result: all(&s.best) };
        program.push(self.device, best_merge::kernel(self.device.lanes), buffers, move |frame| {
            Some((best_merge::Params { slices, count: frame.candidates }, [1, 1, 1]))
        })
    }
}

//! Both ends: token ids into the residual stream, the stream into logits and candidates.

use hotset_shaders::{best_merge, best_slice, embed, penalise};

use super::{Lower, Product, Span, all, product::Factor};
use crate::codec::PANEL;
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::slices;
use crate::gpu::weights::padded_rows;
use crate::plan::Step;

impl Lower<'_> {
    pub(super) fn embed(&self, program: &mut Program) -> Result<()> {
        let s = self.scratch;
        for window in self.weights.group(self.device, &[&self.plan.embedding.table], false)?.iter() {
            for part in &window.parts {
                let first = part.first_panel * PANEL as u32;
                let params = embed::Params {
                    words: part.words,
                    scales: part.scales,
                    chunks: window.chunks,
                    first,
                    rows: part.panels * PANEL as u32,
                    stride: self.stride(),
                    scale: self.plan.embedding.scale,
                };
                let buffers = embed::Buffers { weights: all(&window.buffer), tokens: all(&s.tokens), x: all(&s.x) };
                program.push(self.device, embed::kernel(window.codec), buffers, move |f| Some((params, [f.tokens, 1, 1])))?;
            }
        }
        Ok(())
    }

    pub(super) fn head(&self, program: &mut Program, last: Option<&Step>) -> Result<()> {
        let (s, head) = (self.scratch, &self.plan.head);
        self.join(program, last, Some(&head.norm), Span::Outputs)?;
        let product = Product {
            factors: vec![Factor::new(&head.output, 0, padded_rows(self.plan.vocab) / 4)],
            gated: false,
            activation: None,
            scale: head.scale,
            x: &s.a,
            x_stride: self.stride(),
            y: &s.logits,
            span: Span::Outputs,
        };
        self.product(program, &product)
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

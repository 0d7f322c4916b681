//! Gated short convolutions: project, mix each element over a few tokens, project back.

use hotset_shaders::convolve;

use super::{Lower, Product, all, product::Factor};
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::row;
use crate::gpu::weights::padded_rows;
use crate::plan::{Convolution, Step};

impl Lower<'_> {
    pub(super) fn convolution(&self, program: &mut Program, step: &Step, c: &Convolution) -> Result<()> {
        let (s, input_stride, cache) = (self.scratch, self.stride(step.from), &self.caches[c.state as usize]);
        let width = self.plan.states[c.state as usize].head_dim;
        let (stride, y_stride) = (padded_rows(3 * width), row(width));
        let input = Factor::new(&c.input, 0, stride / 4);
        self.product(program, &Product::new(vec![input], (&s.a, input_stride), &s.projected))?;
        let params = convolve::Params {
            width,
            taps: c.taps,
            stride,
            y_stride,
            row: width.next_multiple_of(4),
            kernel: self.elements(Some(&c.kernel))?,
            bias: self.elements(c.bias.as_deref())?,
            position: 0,
            capacity: cache.capacity,
        };
        let buffers = convolve::Buffers {
            vectors: all(self.weights.vectors()),
            projected: all(&s.projected),
            cache: all(&cache.keys),
            y: all(&s.mixed),
        };
        program.push(self.device, convolve::kernel(), buffers, move |f| {
            Some((convolve::Params { position: f.position, ..params }, [width.div_ceil(64), f.tokens, 1]))
        })?;
        let output = Factor::new(&c.output, 0, input_stride);
        self.product(program, &Product::new(vec![output], (&s.mixed, y_stride / 4), &s.dense))
    }
}

//! Gated short convolutions.

use super::batch::{Batch, BatchMut, Forms, Slab, View};
use super::context::Context;
use super::heads::Vectors;
use super::kernels::Group;
use super::norm::fill;
use super::product::{Job, Join, Part, expand};
use super::routes::Worklist;
use super::state::Recent;
use crate::codec::GROUP;
use crate::error::Result;
use crate::plan::{Convolution, Step};

/// Space of a convolution, kept between steps.
#[derive(Debug, Default)]
pub(super) struct ConvolutionSpace {
    /// `[b; c; x]`: `[groups of 3D][tokens]`.
    projected: Vec<Group>,
    /// The right-hand side of the output matrix.
    mixed: Batch,
}

/// The forms of the input that the step reads.
pub(super) fn forms(c: &Context<'_>, w: &Convolution) -> Result<Forms> {
    Ok(Forms::for_codec(c.linear(&w.input)?.codec()))
}

/// `x += scale * (output of the convolution of `input` + bias)`.
pub(super) fn run(
    c: &Context<'_>,
    (step, w): (&Step, &Convolution),
    input: View<'_>,
    recent: &mut Recent,
    space: &mut ConvolutionSpace,
    x: &mut Slab,
) -> Result<()> {
    let ConvolutionSpace { projected, mixed } = space;
    let (tokens, width, taps) = (input.rows, x.width, w.taps as usize);
    let job = Job::linear(c.linear(&w.input)?, input);
    projected.resize(job.len(), [0.0; GROUP]);
    expand(c, &[job], BatchMut::floats(projected));

    let (kernel, output) = (c.bundle.vector(&w.kernel)?, c.linear(&w.output)?);
    let bias = w.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let projected = Vectors::in_order(projected, 0, tokens);
    // `b ⊙ x` of a token.
    let product = |t: usize, from: usize, u: &mut [f32]| {
        let mut times = [0.0; GROUP];
        for (at, u) in (from..).step_by(GROUP).zip(u.chunks_mut(GROUP)) {
            let times = &mut times[..u.len()];
            projected.read(t, at, u);
            projected.read(t, 2 * width + at, times);
            u.iter_mut().zip(times).for_each(|(u, x)| *u *= *x);
        }
    };
    fill(c, &[tokens], width, (mixed, Forms::for_codec(output.codec())), |_, t, from, y| {
        if let Some(bias) = bias {
            y.copy_from_slice(&bias[from..from + y.len()]);
        }
        let mut u = [0.0; GROUP];
        let u = &mut u[..y.len()];
        // The newest row meets the last tap.
        for (back, kernel) in kernel.chunks(width).rev().enumerate() {
            match t.checked_sub(back) {
                Some(t) => product(t, from, u),
                None => u.copy_from_slice(&recent.row(back - t, width)[from..from + u.len()]),
            }
            y.iter_mut().zip(u.iter().zip(&kernel[from..])).for_each(|(y, (u, k))| *y += u * k);
        }
        projected.read(t, width + from, u);
        y.iter_mut().zip(u).for_each(|(y, c)| *y *= *c);
    });
    let mut row = vec![0.0; width];
    for t in tokens.saturating_sub(taps - 1)..tokens {
        product(t, 0, &mut row);
        recent.push(&row);
    }

    let work = Worklist::dense(tokens);
    let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let y = mixed.view(0, output.matrix.layout().groups(), tokens);
    let parts: Vec<Part<'_>> = work.runs.iter().map(|run| Part { run, weights: output, y }).collect();
    Join { work: &work, scale: step.scale, bias }.all(c, &parts, x);
    Ok(())
}

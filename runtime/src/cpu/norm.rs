//! Normalisation over features.

use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::context::Context;
use super::kernels::Group;
use super::share::{self, Size};
use crate::codec::GROUP;
use crate::error::Result;
use crate::plan::Norm;

/// A norm with its vectors at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gain<'a> {
    centred: bool,
    eps: f32,
    pub(super) weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

/// What one vector is shifted and multiplied by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    mean: f32,
    /// Reciprocal of the root mean square, or of the standard deviation.
    inverse: f32,
}

impl<'a> Gain<'a> {
    pub(super) fn of(c: &Context<'a>, norm: &'a Norm) -> Result<Gain<'a>> {
        Ok(match norm {
            Norm::Rms { weight, eps } => Gain { centred: false, eps: *eps, weight: c.bundle.vector(weight)?, bias: None },
            Norm::Layer { weight, bias, eps } => {
                let bias = bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
                Gain { centred: true, eps: *eps, weight: c.bundle.vector(weight)?, bias }
            }
        })
    }

    /// The moments of a vector given in pieces of at most 32, whose lanes are summed apart and joined at the end.
    pub(super) fn moments<'x>(&self, pieces: impl Iterator<Item = &'x [f32]> + Clone) -> Moments {
        let sum = |f: &dyn Fn(f32) -> f32| {
            let mut lanes = [0f32; GROUP];
            pieces.clone().for_each(|p| lanes.iter_mut().zip(p).for_each(|(l, &v)| *l += f(v)));
            lanes.iter().sum::<f32>()
        };
        let n = self.weight.len() as f32;
        let mean = if self.centred { sum(&|v| v) / n } else { 0.0 };
        let square = sum(&|v| (v - mean) * (v - mean)) / n;
        Moments { mean, inverse: 1.0 / (square + self.eps).sqrt() }
    }

    /// Normalises `x`, which are features `at..` of a vector with these moments.
    pub(super) fn apply(&self, m: Moments, at: usize, x: &mut [f32]) {
        for (v, w) in x.iter_mut().zip(&self.weight[at..]) {
            *v = (*v - m.mean) * m.inverse * w;
        }
        if let Some(bias) = self.bias {
            x.iter_mut().zip(&bias[at..]).for_each(|(v, b)| *v += b);
        }
    }
}

/// `out = norm(x)` for every row, in the wanted forms; a plain copy without a norm.
pub(super) fn normalise(c: &Context<'_>, gain: Option<Gain<'_>>, x: &Slab, out: &mut Batch, forms: Forms) {
    let (rows, groups) = (x.rows, groups_of(x.width));
    out.reset(groups * rows, forms);
    // A group costs about a tenth of a unit elsewhere.
    let parts = share::parts(c.team.threads(), groups * rows / 10);
    let mut moments = vec![Moments::default(); rows];
    if let Some(gain) = gain {
        let piece = |g: usize, t: usize| &x.data[g * rows + t][..(x.width - g * GROUP).min(GROUP)];
        c.team.each(share::split(&mut moments, 1, parts.min(rows)), |(range, out)| {
            for (t, m) in range.zip(out) {
                *m = gain.moments((0..groups).map(|g| piece(g, t)));
            }
        });
    }
    let lists = share::spans(&[Size { units: groups, rows, cost: 1 }], parts, out.as_mut());
    c.team.each(lists, |list| {
        let mut y = vec![[0.0; GROUP]; rows];
        for mut span in list {
            for (i, g) in span.units.enumerate() {
                y.copy_from_slice(&x.data[g * rows..][..rows]);
                if let Some(gain) = gain {
                    let width = (x.width - g * GROUP).min(GROUP);
                    y.iter_mut().zip(&moments).for_each(|(y, &m)| gain.apply(m, g * GROUP, &mut y[..width]));
                }
                span.out.put(c.kernels, i * rows, &y);
            }
        }
    });
}

/// Fills `out` with the rows of some jobs one after the other, each `[groups][rows of the job]`, thirty-two features at a time: `read` is
/// given job, row, the first feature and where at most thirty-two of the job's `width` features belong.
pub(super) fn fill(
    c: &Context<'_>,
    rows: &[usize],
    width: usize,
    (out, forms): (&mut Batch, Forms),
    read: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
) {
    let groups = groups_of(width);
    let all: usize = rows.iter().sum();
    out.reset(groups * all, forms);
    let sizes: Vec<Size> = rows.iter().map(|&rows| Size { units: groups, rows, cost: rows }).collect();
    let parts = share::parts(c.team.threads(), groups * all);
    c.team.each(share::spans(&sizes, parts, out.as_mut()), |list| {
        let mut y = Vec::new();
        for mut span in list {
            y.resize(rows[span.job], [0.0; GROUP]);
            for (i, g) in span.units.enumerate() {
                let from = g * GROUP;
                for (row, y) in y.iter_mut().enumerate() {
                    *y = [0.0; GROUP];
                    read(span.job, row, from, &mut y[..(width - from).min(GROUP)]);
                }
                span.out.put(c.kernels, i * y.len(), &y);
            }
        }
    });
}

/// Copies some rows of `x`: `[groups][rows.len()]`, each group of 32 as it is.
pub(super) fn gather(x: &View<'_>, groups: usize, rows: &[u32], out: &mut BatchMut<'_>) {
    for g in 0..groups {
        for (i, &r) in rows.iter().enumerate() {
            out.copy(g * rows.len() + i, x, g * x.rows + r as usize);
        }
    }
}

/// Adds elements `at..` of a bias to each row.
pub(super) fn add_bias(y: &mut [Group], bias: Option<&[f32]>, at: usize) {
    if let Some(bias) = bias {
        y.iter_mut().for_each(|y| y.iter_mut().zip(&bias[at..]).for_each(|(y, b)| *y += b));
    }
}

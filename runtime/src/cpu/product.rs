//! The two regions that every step is made of: `expand` widens its input, `join` brings results back to the stream.

use super::batch::{BatchMut, Slab, View};
use super::context::{Context, Weights};
use super::kernels::{Group, Rows};
use super::norm::add_bias;
use super::routes::{Run, Worklist};
use super::share::{self, Size};
use crate::codec::GROUP;
use crate::plan::Activation;

/// Rows that are multiplied with all of a thread's units before the next ones, so that they stay in its second-level cache.
const BLOCK: usize = 128;
/// Results that a thread of [`join`] keeps before it adds them up, in groups of 128 bytes.
const PENDING: usize = 8192;

/// `act(weights · x) ⊙ (times · x)`; the identity without an activation. [`Activation::Clamped`] has its say in `times` too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) weights: Weights<'a>,
    pub(super) times: Option<Weights<'a>>,
    pub(super) activation: Option<Activation>,
    pub(super) x: View<'a>,
}

impl<'a> Job<'a> {
    /// `weights · x`.
    pub(super) fn linear(weights: Weights<'a>, x: View<'a>) -> Job<'a> {
        Job { weights, times: None, activation: None, x }
    }

    /// Groups of output.
    pub(super) fn len(&self) -> usize {
        self.weights.units() * self.x.rows
    }
}

/// What one unit of 32 rows of a matrix costs: columns, times rows of the batch, plus what reading the weights costs beyond that.
fn cost(w: &Weights<'_>, rows: usize) -> usize {
    w.matrix.layout().groups() * (rows + 2)
}

/// `y = w · x` for rows `first..first + y.len()` of `x` and unit `u` of the matrix.
fn unit(c: &Context<'_>, w: &Weights<'_>, u: usize, x: &View<'_>, first: usize, y: &mut [Group]) {
    let values = x.values(w.matrix.layout().codec);
    let panel = w.panels.0 + 2 * u;
    c.kernels.product(&Rows::of(w.matrix, panel, w.panels.1), values, x.rows, first, y, false);
    add_bias(y, w.bias, u * GROUP);
}

/// Runs all jobs in one region. Their outputs `[units][rows]` follow each other in `out`.
pub(super) fn expand(c: &Context<'_>, jobs: &[Job<'_>], out: BatchMut<'_>) {
    let size = |j: &Job<'_>| {
        let cost = cost(&j.weights, j.x.rows) + j.times.map_or(0, |w| cost(&w, j.x.rows));
        Size { units: j.weights.units(), rows: j.x.rows, cost }
    };
    let sizes: Vec<Size> = jobs.iter().map(size).collect();
    let parts = share::parts(c.team.threads(), sizes.iter().map(|s| s.units * s.cost).sum());
    c.team.each(share::spans(&sizes, parts, out), |list| {
        let (mut y, mut z) = ([[0.0; GROUP]; BLOCK], [[0.0; GROUP]; BLOCK]);
        for mut span in list {
            let job = &jobs[span.job];
            let rows = job.x.rows;
            for first in (0..rows).step_by(BLOCK) {
                let n = BLOCK.min(rows - first);
                for (i, u) in span.units.clone().enumerate() {
                    let y = &mut y[..n];
                    unit(c, &job.weights, u, &job.x, first, y);
                    if let Some(activation) = job.activation {
                        c.kernels.activate(activation, y);
                    }
                    if let Some(times) = &job.times {
                        unit(c, times, u, &job.x, first, &mut z[..n]);
                        if let Some(Activation::Clamped { limit, .. }) = job.activation {
                            z[..n].as_flattened_mut().iter_mut().for_each(|z| *z = z.clamp(-limit, limit) + 1.0);
                        }
                        y.as_flattened_mut().iter_mut().zip(z.as_flattened()).for_each(|(y, z)| *y *= z);
                    }
                    span.out.put(c.kernels, i * rows + first, y);
                }
            }
        }
    });
}

/// The last matrix of a run of the worklist, and what it is multiplied with.
pub(super) struct Part<'a> {
    pub(super) run: &'a Run,
    pub(super) weights: Weights<'a>,
    /// The run's rows.
    pub(super) y: View<'a>,
}

/// How a step's result joins the stream: `x += scale * (Σ weight · (weights · y) + bias)`.
pub(super) struct Join<'a> {
    pub(super) work: &'a Worklist,
    pub(super) scale: f32,
    pub(super) bias: Option<&'a [f32]>,
}

/// Writes the products of all parts for units `first_unit..` to `pending`, `[units][rows of the worklist]`.
fn multiply(c: &Context<'_>, parts: &[Part<'_>], first_unit: usize, rows: usize, pending: &mut [Group]) {
    for p in parts {
        for first in (0..p.y.rows).step_by(BLOCK) {
            let n = BLOCK.min(p.y.rows - first);
            for (i, pending) in pending.chunks_mut(rows).enumerate() {
                unit(c, &p.weights, first_unit + i, &p.y, first, &mut pending[p.run.rows.start + first..][..n]);
            }
        }
    }
}

impl Join<'_> {
    /// Adds to each token's stream `x`, one unit of it, its rows of `pending`, weighted, in the order of its routes.
    fn add(&self, unit: usize, pending: &[Group], x: &mut [Group]) {
        for (t, x) in x.iter_mut().enumerate() {
            let mut sum = [[0.0; GROUP]];
            for (row, weight) in self.work.of_token(t) {
                sum[0].iter_mut().zip(&pending[row]).for_each(|(s, y)| *s += weight * y);
            }
            add_bias(&mut sum, self.bias, unit * GROUP);
            x.iter_mut().zip(sum[0]).for_each(|(x, s)| *x += self.scale * s);
        }
    }

    /// Multiplies and adds in one region. `parts` are all runs of the worklist.
    pub(super) fn all(&self, c: &Context<'_>, parts: &[Part<'_>], x: &mut Slab) {
        let (tokens, rows) = (x.rows, self.work.rows());
        if rows == 0 {
            return self.sum(c, &[], x);
        }
        let cost = x.data.len() / tokens * parts.iter().map(|p| cost(&p.weights, p.y.rows)).sum::<usize>();
        let threads = share::parts(c.team.threads(), cost).min(x.data.len() / tokens);
        c.team.each(share::split(&mut x.data, tokens, threads), |(units, x)| {
            let at_once = (PENDING / rows).clamp(1, units.len().max(1));
            let mut pending = vec![[0.0; GROUP]; at_once * rows];
            for (chunk, x) in x.chunks_mut(at_once * tokens).enumerate() {
                let first_unit = units.start + chunk * at_once;
                let pending = &mut pending[..x.len() / tokens * rows];
                multiply(c, parts, first_unit, rows, pending);
                for (i, (pending, x)) in pending.chunks(rows).zip(x.chunks_mut(tokens)).enumerate() {
                    self.add(first_unit + i, pending, x);
                }
            }
        });
    }

    /// [`all`](Self::all), by way of `pending` when somebody wants to know the lengths of what routes bring: the same sums.
    pub(super) fn told(&self, c: &Context<'_>, parts: &[Part<'_>], pending: &mut Vec<Group>, x: &mut Slab) {
        if c.lengths.is_none() || self.work.experts().next().is_none() {
            return self.all(c, parts, x);
        }
        pending.resize(x.data.len() / x.rows * self.work.rows(), [0.0; GROUP]);
        self.some(c, parts, pending);
        c.tell_lengths(self.work, pending);
        self.sum(c, pending, x);
    }

    /// Multiplies some parts into `pending`, `[units][rows of the worklist]`, to be [added](Self::sum) when all are there.
    pub(super) fn some(&self, c: &Context<'_>, parts: &[Part<'_>], pending: &mut [Group]) {
        let rows = self.work.rows();
        let units = pending.len() / rows.max(1);
        if parts.is_empty() {
            return;
        }
        let cost = units * parts.iter().map(|p| cost(&p.weights, p.y.rows)).sum::<usize>();
        let threads = share::parts(c.team.threads(), cost).min(units);
        c.team.each(share::split(pending, rows, threads), |(units, pending)| multiply(c, parts, units.start, rows, pending));
    }

    /// Adds what [`some`](Self::some) left: the same sums in the same order as [`all`](Self::all).
    pub(super) fn sum(&self, c: &Context<'_>, pending: &[Group], x: &mut Slab) {
        let (tokens, rows) = (x.rows, self.work.rows());
        let units = x.data.len() / tokens;
        let threads = share::parts(c.team.threads(), pending.len()).min(units);
        c.team.each(share::split(&mut x.data, tokens, threads), |(units, x)| {
            for (u, x) in units.zip(x.chunks_mut(tokens)) {
                self.add(u, &pending[u * rows..][..rows], x);
            }
        });
    }
}

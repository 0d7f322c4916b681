//! What happens to queries and keys between their projection and their use: norm, clip, rotation.

use std::ops::Range;

use super::batch::groups_of;
use super::context::Context;
use super::kernels::Group;
use super::norm::{Gain, Moments};
use super::share;
use crate::codec::GROUP;
use crate::error::Result;
use crate::plan::{Norm, Rotation};

/// Cosines and sines of one rotation for consecutive positions: `[tokens][pairs]`.
#[derive(Debug)]
pub(super) struct Turns {
    pairs: usize,
    table: Vec<(f32, f32)>,
}

impl Turns {
    /// For `tokens` positions from `position` on, in a conversation with room for `context`.
    pub(super) fn new(r: &Rotation, context: usize, position: usize, tokens: usize) -> Turns {
        let (frequencies, amplitude) = r.for_context(context);
        let angles = (position..position + tokens).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let table = angles.map(|angle| (angle.cos() * amplitude, angle.sin() * amplitude)).collect();
        Turns { pairs: frequencies.len(), table }
    }

    fn apply(&self, token: usize, head: &mut [f32]) {
        let (first, second) = head.split_at_mut(self.pairs);
        let turns = &self.table[token * self.pairs..][..self.pairs];
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Where one projected vector is: group `g` of it is `data[at + g * stride]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: usize,
    pub(super) stride: usize,
}

/// Projected vectors, one for each row of work.
#[derive(Debug)]
pub(super) struct Vectors<'a> {
    pub(super) data: &'a [Group],
    pub(super) places: Vec<Place>,
}

impl<'a> Vectors<'a> {
    /// `[groups][rows]` from group `at` on.
    pub(super) fn in_order(data: &'a [Group], at: usize, rows: usize) -> Vectors<'a> {
        Vectors { data, places: (at..at + rows).map(|at| Place { at, stride: rows }).collect() }
    }

    /// Features `from..from + out.len()` of a row.
    pub(super) fn read(&self, row: usize, mut from: usize, mut out: &mut [f32]) {
        let place = self.places[row];
        while !out.is_empty() {
            let group = &self.data[place.at + from / GROUP * place.stride][from % GROUP..];
            let n = group.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&group[..n]);
            (from, out) = (from + n, tail);
        }
    }

    /// Group `g` of a row.
    pub(super) fn group(&self, row: usize, g: usize) -> &'a Group {
        let place = self.places[row];
        &self.data[place.at + g * place.stride]
    }

    /// The pieces of a row's first `width` features.
    fn pieces(&self, row: usize, width: usize) -> impl Iterator<Item = &[f32]> + Clone {
        (0..groups_of(width)).map(move |g| &self.group(row, g)[..(width - g * GROUP).min(GROUP)])
    }
}

/// Where the heads of each row are.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// One after the other.
    Whole(Vectors<'a>),
    /// Each head `[c; r]` of a latent attention from two places.
    Latent {
        /// `c` of every head in turn, each `[groups][rows]`.
        absorbed: Vec<Vectors<'a>>,
        /// Heads `[n; r]` one after the other.
        queries: Vectors<'a>,
        /// Where the `r` of such a head begins, and its width.
        rest: Range<usize>,
    },
}

/// What is to be done to each head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finish<'a> {
    pub(super) norm: Option<&'a Norm>,
    pub(super) clip: Option<f32>,
    pub(super) turns: Option<&'a Turns>,
    /// Whether heads turn before anything else is done to them, and not after.
    pub(super) turned_first: bool,
    /// Elements before those that turn: with a norm for them alone, if any.
    pub(super) still: usize,
}

/// The projected queries, keys or values of a step.
#[derive(Debug)]
pub(super) struct Heads<'a> {
    source: Source<'a>,
    /// Features of a head.
    pub(super) dim: usize,
    finish: Finish<'a>,
    gain: Option<Gain<'a>>,
    /// One for each row where the norm is over all its heads.
    moments: Vec<Moments>,
}

impl<'a> Heads<'a> {
    /// Rows of `width` features in heads of `dim`.
    pub(super) fn new(c: &Context<'a>, source: Source<'a>, (width, dim): (usize, usize), finish: Finish<'a>) -> Result<Heads<'a>> {
        let gain = finish.norm.map(|n| Gain::of(c, n)).transpose()?;
        let mut moments = Vec::new();
        let over_all = gain.filter(|g| finish.still == 0 && g.weight.len() != dim);
        if let (Some(gain), Source::Whole(vectors)) = (over_all, &source) {
            let rows = vectors.places.len();
            moments.resize(rows, Moments::default());
            let parts = share::parts(c.team.threads(), rows * groups_of(width) / 10).min(rows);
            c.team.each(share::split(&mut moments, 1, parts), |(range, out)| {
                for (row, m) in range.zip(out) {
                    *m = gain.moments(vectors.pieces(row, width));
                }
            });
        }
        Ok(Heads { source, dim, finish, gain, moments })
    }

    /// Head `head` of a row, which belongs to `token` of the batch, ready for use: `[dim]`.
    pub(super) fn read(&self, row: usize, head: usize, token: usize, out: &mut [f32]) {
        match &self.source {
            Source::Whole(vectors) => vectors.read(row, head * self.dim, out),
            Source::Latent { absorbed, queries, rest } => {
                let (latent, turned) = out.split_at_mut(self.dim - rest.len());
                absorbed[head].read(row, 0, latent);
                queries.read(row, head * rest.end + rest.start, turned);
            }
        }
        let (still, first) = (self.finish.still, self.finish.turned_first);
        if let Some(turns) = self.finish.turns.filter(|_| first) {
            turns.apply(token, out);
        }
        match (&self.gain, self.moments.get(row)) {
            (None, _) => {}
            (Some(gain), Some(&m)) => gain.apply(m, head * self.dim, out),
            (Some(gain), None) => {
                let normed = if still > 0 { &mut out[..still] } else { &mut *out };
                gain.apply(gain.moments(normed.chunks(GROUP)), 0, normed);
            }
        }
        if let Some(clip) = self.finish.clip {
            out.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
        }
        if let Some(turns) = self.finish.turns.filter(|_| !first) {
            turns.apply(token, &mut out[still..]);
        }
    }
}

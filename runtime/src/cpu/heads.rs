//! What happens to queries and keys between their projection and their use: norm, clip, rotation.

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
    /// For `tokens` positions from `position` on.
    pub(super) fn new(r: &Rotation, position: usize, tokens: usize) -> Turns {
        let angles = (position..position + tokens).flat_map(|p| r.frequencies.iter().map(move |f| p as f32 * f));
        let table = angles.map(|angle| (angle.cos() * r.amplitude, angle.sin() * r.amplitude)).collect();
        Turns { pairs: r.frequencies.len(), table }
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

impl Place {
    /// Features `from..from + out.len()`.
    fn read(&self, data: &[Group], mut from: usize, mut out: &mut [f32]) {
        while !out.is_empty() {
            let group = &data[self.at + from / GROUP * self.stride][from % GROUP..];
            let n = group.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&group[..n]);
            (from, out) = (from + n, tail);
        }
    }
}

/// The projected queries, keys or values of a step, with what is to be done to each head.
#[derive(Debug)]
pub(super) struct Heads<'a> {
    data: &'a [Group],
    places: Vec<Place>,
    /// Features of a head.
    pub(super) dim: usize,
    gain: Option<Gain<'a>>,
    /// One for each vector where the norm is over all its heads.
    moments: Vec<Moments>,
    clip: Option<f32>,
    turns: Option<&'a Turns>,
}

impl<'a> Heads<'a> {
    /// Vectors of `width` features in heads of `dim`.
    pub(super) fn new(
        c: &Context<'a>,
        (data, places): (&'a [Group], Vec<Place>),
        (width, dim): (usize, usize),
        norm: Option<&'a Norm>,
        clip: Option<f32>,
        turns: Option<&'a Turns>,
    ) -> Result<Heads<'a>> {
        let gain = norm.map(|n| Gain::of(c, n)).transpose()?;
        let mut moments = Vec::new();
        if let Some(gain) = gain.filter(|g| g.weight.len() != dim) {
            moments.resize(places.len(), Moments::default());
            let parts = share::parts(c.team.threads(), places.len() * groups_of(width) / 10).min(places.len());
            c.team.each(share::split(&mut moments, 1, parts), |(range, out)| {
                for (p, m) in places[range].iter().zip(out) {
                    let piece = |g: usize| &data[p.at + g * p.stride][..(width - g * GROUP).min(GROUP)];
                    *m = gain.moments((0..groups_of(width)).map(piece));
                }
            });
        }
        Ok(Heads { data, places, dim, gain, moments, clip, turns })
    }

    /// Head `head` of vector `row`, which belongs to `token` of the batch, ready for use: `[dim]`.
    pub(super) fn read(&self, row: usize, head: usize, token: usize, out: &mut [f32]) {
        self.places[row].read(self.data, head * self.dim, out);
        if let Some(gain) = &self.gain {
            match self.moments.get(row) {
                Some(&m) => gain.apply(m, head * self.dim, out),
                None => gain.apply(gain.moments(out.chunks(GROUP)), 0, out),
            }
        }
        if let Some(clip) = self.clip {
            out.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
        }
        if let Some(turns) = self.turns {
            turns.apply(token, out);
        }
    }
}

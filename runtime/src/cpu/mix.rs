//! The heart of attention: a tile of queries against the cache of one head, as products over blocks of 32 tokens.
//!
//! Blocks lie at fixed positions and are visited in a fixed order, and keys that a query does not see weigh exactly zero; so a query's
//! result does not depend on the other queries of its tile.

use std::ops::Range;

use super::cache::{BLOCK, Head};
use super::kernels::{Group, Kernels, Values};
use crate::codec::GROUP;
use crate::plan::AttentionKind;

/// Queries of a tile: as many as the widest kernels take at once.
pub(super) const TILE: usize = 16;

/// Up to [`TILE`] queries of one head, their weights and results.
#[derive(Debug, Default)]
pub(super) struct Tile {
    /// Positions that each query sees; never empty.
    pub(super) seen: Vec<Range<usize>>,
    /// `[groups of the head][queries]`, multiplied by the scale of the scores.
    pub(super) queries: Vec<Group>,
    /// Logits of each query's sink; empty where there are none.
    pub(super) sinks: Vec<f32>,
    /// Scores, then weights: `[blocks][queries][32 tokens]`.
    weights: Vec<Group>,
    /// Mixed values: `[groups of the head][queries]`.
    pub(super) mixed: Vec<Group>,
}

impl Tile {
    /// Fills `mixed`.
    pub(super) fn mix(&mut self, kernels: &dyn Kernels, kind: AttentionKind, head: &Head, epsilon: f32) {
        self.mixed.clear();
        self.mixed.resize(self.queries.len(), [0.0; GROUP]);
        match kind {
            AttentionKind::Softmax => self.softmax(kernels, head),
            AttentionKind::StickBreaking => self.stick_breaking(kernels, head, epsilon),
        }
    }

    /// Blocks that some query sees.
    fn blocks(&self) -> Range<usize> {
        let first = self.seen.iter().map(|s| s.start).min().unwrap_or(0);
        let end = self.seen.iter().map(|s| s.end).max().unwrap_or(0);
        first / BLOCK..end.div_ceil(BLOCK)
    }

    /// Scores in `weights[at..]` of all queries and the keys of one block.
    fn score(&mut self, kernels: &dyn Kernels, head: &Head, block: usize, at: usize) {
        let n = self.seen.len();
        kernels.product(&head.keys(block), Values::Float(&self.queries), n, 0, &mut self.weights[at..at + n], false);
    }

    /// Adds the values of one block, weighed by `weights[at..]`.
    fn gather(&mut self, kernels: &dyn Kernels, head: &Head, block: usize, at: usize) {
        let n = self.seen.len();
        let weights = Values::Float(&self.weights[at..at + n]);
        for (unit, mixed) in self.mixed.chunks_mut(n).enumerate() {
            kernels.product(&head.values(block, unit), weights, n, 0, mixed, true);
        }
    }

    fn softmax(&mut self, kernels: &dyn Kernels, head: &Head) {
        let (n, blocks) = (self.seen.len(), self.blocks());
        self.weights.resize(blocks.len() * n, [0.0; GROUP]);
        for (i, block) in blocks.clone().enumerate() {
            self.score(kernels, head, block, i * n);
        }
        let mut totals = [0f32; TILE];
        for (q, (seen, total)) in self.seen.iter().zip(&mut totals).enumerate() {
            let mut top = [f32::MIN; GROUP];
            let rows = self.weights.iter_mut().skip(q).step_by(n);
            for (weights, block) in rows.zip(blocks.clone()) {
                hide(weights, seen, block, f32::MIN);
                top.iter_mut().zip(weights).for_each(|(t, w)| *t = if *w > *t { *w } else { *t });
            }
            let sink = self.sinks.get(q);
            let top = top.into_iter().fold(sink.copied().unwrap_or(f32::MIN), f32::max);
            let mut sums = [0f32; GROUP];
            let rows = self.weights.iter_mut().skip(q).step_by(n);
            for (weights, block) in rows.zip(blocks.clone()) {
                kernels.exp(weights, top);
                hide(weights, seen, block, 0.0);
                sums.iter_mut().zip(weights).for_each(|(s, w)| *s += *w);
            }
            *total = sums.into_iter().sum();
            if let Some(&sink) = sink {
                let mut share = [sink; GROUP];
                kernels.exp(&mut share, top);
                *total += share[0];
            }
        }
        for (i, block) in blocks.enumerate() {
            self.gather(kernels, head, block, i * n);
        }
        for mixed in self.mixed.chunks_mut(n) {
            for (m, total) in mixed.iter_mut().zip(&totals) {
                m.iter_mut().for_each(|v| *v /= total);
            }
        }
    }

    /// From the newest block into the past, until nothing (or less than `epsilon`) of every query's stick is left.
    fn stick_breaking(&mut self, kernels: &dyn Kernels, head: &Head, epsilon: f32) {
        let n = self.seen.len();
        self.weights.resize(n, [0.0; GROUP]);
        let mut left = [1f32; TILE];
        let spent = |left: f32| left == 0.0 || left < epsilon;
        for block in self.blocks().rev() {
            self.score(kernels, head, block, 0);
            for ((weights, seen), left) in self.weights.iter_mut().zip(&self.seen).zip(&mut left) {
                if spent(*left) {
                    *weights = [0.0; GROUP];
                    continue;
                }
                let mut rest = weights.map(|l| -l);
                kernels.sigmoid(&mut rest);
                kernels.sigmoid(weights);
                hide(weights, seen, block, 0.0);
                for t in lanes(seen, block).rev() {
                    weights[t] *= *left;
                    *left *= rest[t];
                }
            }
            self.gather(kernels, head, block, 0);
            if left[..n].iter().all(|&l| spent(l)) {
                break;
            }
        }
    }
}

/// Which tokens of `block` are seen.
fn lanes(seen: &Range<usize>, block: usize) -> Range<usize> {
    let lane = |p: usize| p.clamp(block * BLOCK, (block + 1) * BLOCK) - block * BLOCK;
    lane(seen.start)..lane(seen.end)
}

/// Overwrites what is not seen.
fn hide(weights: &mut Group, seen: &Range<usize>, block: usize, with: f32) {
    let lanes = lanes(seen, block);
    weights[..lanes.start].fill(with);
    weights[lanes.end..].fill(with);
}

//! Who attends to what: rows of keys and values into caches, and every query's mix of what it sees.

use std::ops::Range;

use super::super::batch::groups_of;
use super::super::cache::Head;
use super::super::context::Context;
use super::super::heads::Heads;
use super::super::mix::{TILE, Tile};
use super::super::share;
use crate::codec::GROUP;
use crate::plan::Attention;

/// A row of queries, or of keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Among the projected ones.
    pub(super) row: usize,
    /// The token of the batch it belongs to.
    pub(super) token: usize,
    /// Its place in the cache.
    pub(super) at: usize,
}

/// Queries that see the same cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readers<'a> {
    pub(super) heads: &'a [Head],
    pub(super) entries: &'a [Entry],
}

/// Writes keys and values of some heads of caches, each head's by one thread: a head, its number, its rows.
pub(super) fn append(c: &Context<'_>, keys: &Heads<'_>, values: &Heads<'_>, mut writers: Vec<(&mut Head, usize, &[Entry])>) {
    let dim = keys.dim;
    let rows: usize = writers.iter().map(|w| w.2.len()).sum();
    let parts = share::parts(c.team.threads(), rows * groups_of(dim) * 4).min(writers.len().max(1));
    c.team.each(share::split(&mut writers, 1, parts), |(_, writers)| {
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        for (head, h, entries) in writers {
            for e in *entries {
                keys.read(e.row, *h, e.token, &mut key);
                values.read(e.row, *h, e.token, &mut value);
                head.put(e.at, &key, &value);
            }
        }
    });
}

/// Mixed values of all queries.
#[derive(Debug)]
pub(super) struct Mixed<'a> {
    /// For each set of readers `[key heads][entries][queries of the head][dim]`.
    data: &'a [f32],
    /// For each row of queries: entries of earlier readers, entries of its own, its number among these.
    slots: Vec<(usize, usize, usize)>,
    key_heads: usize,
    per_head: usize,
    dim: usize,
}

impl Mixed<'_> {
    /// What query head `head` of a row brings back.
    pub(super) fn head(&self, row: usize, head: usize) -> &[f32] {
        let (before, entries, entry) = self.slots[row];
        let at = before * self.key_heads + head / self.per_head * entries + entry;
        &self.data[(at * self.per_head + head % self.per_head) * self.dim..][..self.dim]
    }
}

/// Rows that the query at row `at` of a cache sees.
fn seen(c: &Context<'_>, a: &Attention, at: usize) -> Range<usize> {
    let context = if c.options.slide { c.options.context } else { usize::MAX };
    let window = a.window.map_or(usize::MAX, |w| w as usize).min(context);
    (at + 1).saturating_sub(window)..at + 1
}

/// Consecutive queries of one head of a cache, computed together.
struct Piece<'a> {
    cache: &'a Head,
    /// Number of the key head.
    head: usize,
    entries: &'a [Entry],
    /// Queries: [`per_head`](Mixed::per_head) for each entry.
    queries: Range<usize>,
    cost: usize,
}

/// Every query's mix of values, into `out`. Together the readers have every row of `queries` once.
pub(super) fn mix<'o>(
    c: &Context<'_>,
    a: &Attention,
    readers: &[Readers<'_>],
    queries: &Heads<'_>,
    sinks: Option<&[f32]>,
    out: &'o mut Vec<f32>,
) -> Mixed<'o> {
    let (dim, rows) = (queries.dim, readers.iter().map(|r| r.entries.len()).sum::<usize>());
    let key_heads = c.bundle.plan().states[a.state as usize].kv_heads as usize;
    let per_head = a.heads as usize / key_heads;
    let mut slots = vec![(0, 0, 0); rows];
    let mut before = 0;
    for r in readers {
        r.entries.iter().enumerate().for_each(|(i, e)| slots[e.row] = (before, r.entries.len(), i));
        before += r.entries.len();
    }
    out.resize(rows * a.heads as usize * dim, 0.0);

    let most = (rows * a.heads as usize).div_ceil(c.team.threads()).clamp(1, TILE);
    let pieces = pieces(c, a, readers, (per_head, most));
    let mut costs = vec![0];
    pieces.iter().for_each(|p| costs.push(costs[costs.len() - 1] + p.cost * groups_of(dim)));
    let total = costs[pieces.len()];
    let parts = share::parts(c.team.threads(), total).min(pieces.len());
    let (mut lists, mut from, mut rest) = (Vec::new(), 0, &mut out[..]);
    for i in 1..=parts {
        let end = if i == parts { pieces.len() } else { costs.partition_point(|&cost| cost < total * i / parts) };
        let list = &pieces[from..end.max(from)];
        let (own, others) = rest.split_at_mut(list.iter().map(|p| p.queries.len() * dim).sum());
        lists.push((list, own));
        (from, rest) = (from + list.len(), others);
    }
    c.team.each(lists, |(pieces, mut out)| {
        let (mut tile, mut query) = (Tile::default(), vec![0.0; dim]);
        for p in pieces {
            let n = p.queries.len();
            tile.seen.clear();
            tile.sinks.clear();
            tile.queries.clear();
            tile.queries.resize(groups_of(dim) * n, [0.0; GROUP]);
            for (i, q) in p.queries.clone().enumerate() {
                let (entry, head) = (p.entries[q / per_head], p.head * per_head + q % per_head);
                tile.seen.push(seen(c, a, entry.at));
                tile.sinks.extend(sinks.map(|s| s[head]));
                queries.read(entry.row, head, entry.token, &mut query);
                query.iter_mut().for_each(|v| *v *= a.scale);
                for (g, v) in query.chunks(GROUP).enumerate() {
                    tile.queries[g * n + i][..v.len()].copy_from_slice(v);
                }
            }
            tile.mix(c.kernels, a.kind, p.cache, c.options.stick_epsilon);
            let (own, others) = out.split_at_mut(n * dim);
            for (i, out) in own.chunks_mut(dim).enumerate() {
                for (g, v) in out.chunks_mut(GROUP).enumerate() {
                    v.copy_from_slice(&tile.mixed[g * n + i][..v.len()]);
                }
            }
            out = others;
        }
    });
    Mixed { data: out, slots, key_heads, per_head, dim }
}

/// All queries in the order of [`Mixed`], at most `most` at once.
fn pieces<'a>(c: &Context<'_>, a: &Attention, readers: &[Readers<'a>], (per_head, most): (usize, usize)) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    for r in readers {
        for (head, cache) in r.heads.iter().enumerate() {
            let count = r.entries.len() * per_head;
            for first in (0..count).step_by(most) {
                let queries = first..(first + most).min(count);
                // A query costs as many products of its width as there are blocks to see, twice.
                let cost = |q: usize| seen(c, a, r.entries[q / per_head].at).len().div_ceil(GROUP) * 2 + 2;
                let cost = queries.clone().map(cost).sum();
                pieces.push(Piece { cache, head, entries: r.entries, queries, cost });
            }
        }
    }
    pieces
}

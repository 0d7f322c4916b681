//! Attention steps: project, append to the cache, mix, project back.

use std::ops::Range;

use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::cache::Head;
use super::context::Context;
use super::experts::Coming;
use super::heads::{Heads, Place};
use super::kernels::Group;
use super::mix::{TILE, Tile};
use super::product::{self, Job, Join, expand};
use super::routes::{Routes, Run, Source, Worklist};
use super::share::{self, Size};
use crate::codec::{Codec, GROUP};
use crate::error::{Error, Result};
use crate::plan::{Attention, Part, Pool, Role, Step};

/// Space of an attention step, kept between steps.
#[derive(Debug, Default)]
pub(super) struct AttentionSpace {
    gathered: Batch,
    /// Queries, keys and values as they come out of their matrices.
    projected: Vec<Group>,
    /// `[key heads][routes][queries of the head][head_dim]`.
    mixed: Vec<f32>,
    /// The same as the right-hand side of the output matrices.
    outputs: Batch,
    /// `[groups of the stream][rows]` of a step whose experts come one after the other.
    pending: Vec<Group>,
}

/// The forms of the input that the step reads, apart from its router.
pub(super) fn forms(c: &Context<'_>, a: &Attention, pool: Option<&Pool>) -> Result<Forms> {
    let mut forms = pool.map_or(Forms::default(), |p| Forms::for_codec(p.codec));
    for part in [&a.q, &a.k, &a.v] {
        forms = forms.and(match part {
            Part::Shared(l) => Forms::for_codec(c.linear(l)?.matrix.layout().codec),
            Part::Input => Forms { floats: true, rounded: false },
            Part::Expert => Forms::default(),
            Part::LowRank { .. } | Part::Sum { .. } => unimplemented!("fast path"),
        });
    }
    Ok(forms)
}

/// `x += scale * (output of the mix of values + bias)`. `routes` name records of `pool` when queries are routed.
pub(super) fn run(
    c: &Context<'_>,
    (index, step, a): (usize, &Step, &Attention),
    (pool, routes): (Option<usize>, &Routes),
    input: View<'_>,
    cache: &mut [Head],
    space: &mut AttentionSpace,
    x: &mut Slab,
) -> Result<()> {
    let AttentionSpace { gathered, projected, mixed, outputs, pending } = space;
    let (work, shared) = match (&a.q, &a.o) {
        (Part::Shared(q), Part::Shared(o)) => (Worklist::dense(input.rows), Some((c.linear(q)?, c.linear(o)?))),
        _ => (Worklist::new(routes, None), None),
    };
    // Experts that come one after the other, or the matrices of all runs.
    let mut host = c.host().filter(|_| shared.is_none());
    let mut feed = match (&mut host, pool) {
        (Some(host), Some(pool)) => Some((pool, Coming::new(host, pool, index, &work)?)),
        _ => None,
    };
    let matrices = |source: Source, role: Role| match (source, shared, pool) {
        (Source::Dense, Some((q, o)), _) => Ok(if role == Role::Query { q } else { o }),
        (Source::Record(r), _, Some(p)) => c.record(p, c.bundle.record(p, r), role),
        _ => Err(Error::Input(format!("step {:?} has rows without matrices", step.name))),
    };
    let all = |role: Role| work.runs.iter().map(|run| Ok((run, matrices(run.source, role)?))).collect::<Result<Vec<_>>>();

    // Project: queries, keys and values, in one region where possible.
    let (dim, width) = (a.head_dim as usize, a.heads as usize * a.head_dim as usize);
    let forms = forms(c, a, pool.map(|p| &c.bundle.plan().pools[p]))?;
    let inputs = work.inputs(c, &work.runs.iter().collect::<Vec<_>>(), input, groups_of(x.width), gathered, forms);
    let groups = groups_of(width);
    let mut at = work.rows() * groups;
    let mut key_value = [None; 2];
    let mut jobs = Vec::new();
    for (slot, part) in key_value.iter_mut().zip([&a.k, &a.v]) {
        if let Part::Shared(l) = part {
            let job = Job::linear(c.linear(l)?, input);
            (*slot, at) = (Some(at), at + job.len());
            jobs.push(job);
        }
    }
    projected.resize(at, [0.0; GROUP]);
    match &mut feed {
        None => {
            let queries = all(Role::Query)?.into_iter().zip(&inputs).map(|((_, q), &x)| Job::linear(q, x));
            expand(c, &queries.chain(jobs).collect::<Vec<_>>(), BatchMut::floats(projected));
        }
        Some((pool, feed)) => {
            expand(c, &jobs, BatchMut::floats(&mut projected[work.rows() * groups..]));
            while let Some(wave) = feed.wave()? {
                for (run, bytes) in wave {
                    let place = run.rows.start * groups..run.rows.end * groups;
                    let which = work.runs.iter().position(|r| r.source == run.source).unwrap_or(0);
                    let job = Job::linear(c.record(*pool, bytes, Role::Query)?, inputs[which]);
                    expand(c, &[job], BatchMut::floats(&mut projected[place]));
                }
            }
        }
    }

    // The input itself where there is no matrix.
    let tokens = |at: usize| (0..input.rows).map(|t| Place { at: at + t, stride: input.rows }).collect::<Vec<_>>();
    let source = |at: Option<usize>| at.map_or((input.floats, tokens(0)), |at| (&projected[..], tokens(at)));
    let turns = a.rotation.map(|r| &c.turns[r as usize]);
    let kv_width = cache.len() * dim;
    let keys = Heads::new(c, source(key_value[0]), (kv_width, dim), a.k_norm.as_ref(), a.clip, turns)?;
    let tied = c.bundle.plan().states[a.state as usize].tied;
    let values = Heads::new(c, source(key_value[1]), (kv_width, dim), None, a.clip, None)?;
    append(c, &keys, if tied { &keys } else { &values }, input.rows, cache);

    let queries = Heads::new(c, (projected, places(&work, groups)), (width, dim), a.q_norm.as_ref(), a.clip, turns)?;
    mix(c, a, &work, &queries, cache, mixed);

    // Project back.
    let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let join = Join { work: &work, scale: step.scale, bias };
    let codec = match (shared, pool) {
        (None, Some(p)) => c.bundle.plan().pools[p].codec,
        (shared, _) => shared.map_or(Codec::F32, |(_, o)| o.matrix.layout().codec),
    };
    outputs.reset(work.rows() * groups, Forms::for_codec(codec));
    arrange(c, a, &work, mixed, cache.len(), outputs);
    let rows = |run: &Run| outputs.view(run.rows.start * groups, groups, run.rows.len());
    let Some((pool, feed)) = &mut feed else {
        let parts = all(Role::Output)?.into_iter().map(|(run, weights)| product::Part { run, weights, y: rows(run) });
        join.all(c, &parts.collect::<Vec<_>>(), x);
        return Ok(());
    };
    pending.resize(groups_of(x.width) * work.rows(), [0.0; GROUP]);
    feed.rewind();
    while let Some(wave) = feed.wave()? {
        let part = |(run, bytes)| Ok(product::Part { run, weights: c.record(*pool, bytes, Role::Output)?, y: rows(run) });
        join.some(c, &wave.into_iter().map(part).collect::<Result<Vec<_>>>()?, pending);
    }
    join.sum(c, pending, x);
    Ok(())
}

/// Where each row of the worklist is among outputs `[run][groups][rows of the run]`.
fn places(work: &Worklist, groups: usize) -> Vec<Place> {
    let place = |run: &Range<usize>, row: usize| Place { at: run.start * groups + row - run.start, stride: run.len() };
    work.runs.iter().flat_map(|run| run.rows.clone().map(|row| place(&run.rows, row))).collect()
}

/// Writes the batch's keys and values, each head's by one thread.
fn append(c: &Context<'_>, keys: &Heads<'_>, values: &Heads<'_>, tokens: usize, cache: &mut [Head]) {
    let dim = keys.dim;
    let parts = share::parts(c.team.threads(), cache.len() * tokens * groups_of(dim) * 4).min(cache.len());
    c.team.each(share::split(cache, 1, parts), |(range, heads)| {
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        for (h, head) in range.zip(heads) {
            for t in 0..tokens {
                keys.read(t, h, t, &mut key);
                values.read(t, h, t, &mut value);
                head.put(c.position + t, &key, &value);
            }
        }
    });
}

/// Positions that the query at position `p` sees.
fn seen(c: &Context<'_>, a: &Attention, p: usize) -> Range<usize> {
    let context = if c.options.slide { c.options.context } else { usize::MAX };
    let window = a.window.map_or(usize::MAX, |w| w as usize).min(context);
    (p + 1).saturating_sub(window)..p + 1
}

/// Every query's mix of values, in the order `[key heads][routes in the order of tokens][queries of the head]`.
fn mix(c: &Context<'_>, a: &Attention, work: &Worklist, queries: &Heads<'_>, cache: &[Head], mixed: &mut Vec<f32>) {
    let (dim, per_head) = (queries.dim, a.heads as usize / cache.len());
    let tokens: Vec<usize> = work.route_tokens().collect();
    let count = work.rows() * per_head;
    // A query costs as many products of its width as there are blocks to see, twice.
    let mut before = vec![0];
    for q in 0..count {
        let seen = seen(c, a, c.position + tokens[q / per_head]);
        before.push(before[q] + (seen.len().div_ceil(GROUP) * 2 + 2) * groups_of(dim));
    }
    let total = before[count] * cache.len();
    let parts = share::parts(c.team.threads(), total).min(count * cache.len());
    let cut = |i: usize| {
        let target = total * i / parts;
        target / before[count] * count + before.partition_point(|&b| b < target % before[count])
    };
    mixed.resize(cache.len() * count * dim, 0.0);
    let lists = share::split_at(mixed, dim, (1..=parts).map(cut));
    c.team.each(lists, |(range, out)| {
        let (mut tile, mut query) = (Tile::default(), vec![0.0; dim]);
        let mut start = range.start;
        for out in tiles(range, count, out, dim) {
            let n = out.len() / dim;
            let (head, first) = (start / count, start % count);
            tile.seen.clear();
            tile.queries.clear();
            tile.queries.resize(groups_of(dim) * n, [0.0; GROUP]);
            for i in 0..n {
                let (route, member) = ((first + i) / per_head, (first + i) % per_head);
                let row = work.routes[route].0 as usize;
                tile.seen.push(seen(c, a, c.position + tokens[route]));
                queries.read(row, head * per_head + member, tokens[route], &mut query);
                query.iter_mut().for_each(|v| *v *= a.scale);
                for (g, v) in query.chunks(GROUP).enumerate() {
                    tile.queries[g * n + i][..v.len()].copy_from_slice(v);
                }
            }
            tile.mix(c.kernels, a.kind, &cache[head], c.options.stick_epsilon);
            for (i, out) in out.chunks_mut(dim).enumerate() {
                for (g, v) in out.chunks_mut(GROUP).enumerate() {
                    v.copy_from_slice(&tile.mixed[g * n + i][..v.len()]);
                }
            }
            start += n;
        }
    });
}

/// Cuts the outputs of the queries in `range` into tiles that stay within one head of `count` queries.
fn tiles(range: Range<usize>, count: usize, mut out: &mut [f32], dim: usize) -> impl Iterator<Item = &mut [f32]> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let n = TILE.min(range.end - at).min(count - at % count);
        at += n;
        out.split_off_mut(..n * dim).filter(|tile| !tile.is_empty())
    })
}

/// Brings `mixed` into the layout `[run][groups][rows of the run]`.
fn arrange(c: &Context<'_>, a: &Attention, work: &Worklist, mixed: &[f32], key_heads: usize, out: &mut Batch) {
    let (dim, heads) = (a.head_dim as usize, a.heads as usize);
    let (per_head, groups) = (heads / key_heads, groups_of(heads * dim));
    let mut route_of = vec![0; work.rows()];
    work.routes.iter().enumerate().for_each(|(route, &(row, _))| route_of[row as usize] = route);
    let sizes: Vec<Size> = work.runs.iter().map(|r| Size { units: groups, rows: r.rows.len(), cost: r.rows.len() }).collect();
    let parts = share::parts(c.team.threads(), groups * work.rows());
    c.team.each(share::spans(&sizes, parts, out.as_mut()), |list| {
        let mut y = Vec::new();
        for mut span in list {
            let rows = work.runs[span.job].rows.clone();
            y.resize(rows.len(), [0.0; GROUP]);
            for (i, g) in span.units.enumerate() {
                for (row, y) in rows.clone().zip(&mut y) {
                    *y = [0.0; GROUP];
                    let columns = g * GROUP..(g * GROUP + GROUP).min(heads * dim);
                    let mut at = columns.start;
                    while at < columns.end {
                        let (head, d) = (at / dim, at % dim);
                        let n = (dim - d).min(columns.end - at);
                        let from = ((head / per_head * work.rows() + route_of[row]) * per_head + head % per_head) * dim + d;
                        y[at - columns.start..][..n].copy_from_slice(&mixed[from..][..n]);
                        at += n;
                    }
                }
                span.out.put(c.kernels, i * rows.len(), &y);
            }
        }
    });
}

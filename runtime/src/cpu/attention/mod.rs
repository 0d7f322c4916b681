//! Attention steps: project, append to the cache, mix, project back.

mod latent;
mod project;
mod readers;

use std::collections::BTreeMap;

use super::adapter;
use super::batch::{Batch, Forms, Slab, View, groups_of};
use super::context::Context;
use super::experts::Coming;
use super::heads::{Finish, Heads, Source, Vectors};
use super::kernels::Group;
use super::norm::fill;
use super::product::{self, Join};
use super::routes::{Routes, Run, Source as Matrices, Worklist};
use super::state::Cache;
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::plan::{Attention, Part, Role, Step};
use crate::profile::Side;

use latent::LatentSpace;
use project::ProjectSpace;
pub(super) use project::forms;
use readers::{Entry, Mixed, Readers, append, mix};

/// Space of an attention step, kept between steps.
#[derive(Debug, Default)]
pub(super) struct AttentionSpace {
    project: ProjectSpace,
    latent: LatentSpace,
    /// See [`Mixed`].
    mixed: Vec<f32>,
    /// The same as the right-hand side of the output matrices.
    outputs: Batch,
    /// `[groups of the stream][rows]` of a step whose experts come one after the other.
    pending: Vec<Group>,
}

/// `x += scale * (output of the mix of values + bias)`. `routes` name experts of `pool` where anything is routed.
pub(super) fn run(
    c: &Context<'_>,
    (index, step, a): (usize, &Step, &Attention),
    (pool, routes): (Option<usize>, &Routes),
    input: View<'_>,
    cache: &mut Cache,
    space: &mut AttentionSpace,
    x: &mut Slab,
) -> Result<()> {
    let AttentionSpace { project, latent, mixed, outputs, pending } = space;
    let output = match &a.o {
        Part::Shared(o) => Some(c.linear(o)?),
        _ => None,
    };
    let work = if output.is_some() { Worklist::dense(input.rows) } else { Worklist::new(routes, None) };
    let tokens: Vec<Entry> = (0..input.rows).map(|t| Entry { row: t, token: t, at: c.position + t }).collect();
    let own = match cache {
        Cache::Ragged(experts) => {
            let own = by_expert(routes, &work, |e| experts[e as usize].rows);
            own.iter().try_for_each(|(&e, entries)| experts[e as usize].reserve(entries.len(), c.grow))?;
            own
        }
        _ => BTreeMap::new(),
    };

    // Experts that come one after the other, unless they are all at hand.
    let mut host = c.host().filter(|_| pool.is_some());
    let mut experts = match (&mut host, pool) {
        (Some(host), Some(pool)) => Some(Coming::new(host, pool, index, &work)?),
        _ => None,
    };
    let [q, k, v] = project::project(c, a, (&work, pool, experts.as_mut()), (input, groups_of(x.width)), project)?;

    let state = &c.bundle.plan().states[a.state as usize];
    let (dim, key_width) = (a.head_dim as usize, (state.kv_heads * state.head_dim) as usize);
    let still = a.latent.as_ref().map_or(0, |l| l.rank as usize);
    let turns = a.rotation.map(|r| &c.turns[r as usize]);
    let finish = Finish { norm: a.k_norm.as_ref(), clip: a.clip, turns, turned_first: a.rotated_first, still };
    let keys = Heads::new(c, Source::Whole(k), (key_width, dim), finish)?;
    let values = Heads::new(c, Source::Whole(v), (key_width, dim), Finish { clip: a.clip, ..Finish::default() })?;
    let values = if state.tied { &keys } else { &values };
    match cache {
        Cache::Rows(heads) => append(c, &keys, values, heads.iter_mut().enumerate().map(|(h, head)| (head, h, &tokens[..])).collect()),
        Cache::Ragged(experts) => {
            let mut writers = Vec::new();
            for (e, expert) in (0..).zip(&mut *experts) {
                if let Some(entries) = own.get(&e) {
                    expert.rows += entries.len();
                    writers.extend(expert.heads.iter_mut().enumerate().map(|(h, head)| (head, h, &entries[..])));
                }
            }
            append(c, &keys, values, writers);
        }
        Cache::Recent(_) => return Err(misplaced(step)),
    }

    let queries = match &a.latent {
        None => Source::Whole(q),
        Some(l) => latent::absorb(c, (a, l), q, &mut latent.gathered, &mut latent.absorbed)?,
    };
    let finish = Finish { norm: a.q_norm.as_ref(), clip: a.clip, turns, turned_first: a.rotated_first, still };
    let queries = Heads::new(c, queries, ((a.heads * a.head_dim) as usize, dim), finish)?;
    let routed = a.q == Part::Expert;
    let by_route: Vec<Entry> = match routed {
        true => work.of_routes().map(|(row, token)| Entry { row, token, at: c.position + token }).collect(),
        false => tokens,
    };
    let readers: Vec<Readers<'_>> = match cache {
        Cache::Ragged(experts) => own.iter().map(|(&e, entries)| Readers { heads: &experts[e as usize].heads, entries }).collect(),
        Cache::Rows(heads) => vec![Readers { heads, entries: &by_route }],
        Cache::Recent(_) => return Err(misplaced(step)),
    };
    let sinks = a.sinks.as_ref().map(|s| c.bundle.vector(s)).transpose()?;
    let mixed = mix(c, a, &readers, &queries, sinks, mixed);

    // Project back: every row of work what its queries, or those of its token, brought.
    let wanted = match (&a.o, pool) {
        (Part::Shared(o), _) => adapter::forms(c, o)?,
        (_, Some(p)) => Forms::for_codec(c.bundle.plan().pools[p].codec).and(c.measured()),
        _ => return Err(misplaced(step)),
    };
    let by_head = match &a.latent {
        None => Values::Mixed(&mixed),
        Some(l) => Values::Expanded(latent::values(c, (a, l), (&mixed, input.rows), &mut latent.gathered, &mut latent.expanded)?),
    };
    let value = a.latent.as_ref().map_or(a.head_dim, |l| l.value) as usize;
    let width = a.heads as usize * value;
    let runs: Vec<usize> = work.runs.iter().map(|r| r.rows.len()).collect();
    fill(c, &runs, width, (outputs, wanted), |run, row, mut from, mut y| {
        let row = work.runs[run].rows.start + row;
        let row = if routed { row } else { work.tokens[row] as usize };
        while !y.is_empty() {
            let (head, d) = (from / value, from % value);
            let (piece, others) = y.split_at_mut((value - d).min(y.len()));
            by_head.read(row, head, d, piece);
            (from, y) = (from + piece.len(), others);
        }
    });
    let groups = groups_of(width);
    let rows = |run: &Run| outputs.view(run.rows.start * groups, groups, run.rows.len());
    c.measure(pool, Side::Inner, work.runs.iter().map(|run| (run, rows(run))));
    let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let join = Join { work: &work, scale: step.scale, bias };
    let Some((experts, pool)) = experts.as_mut().zip(pool) else {
        let weights = |run: &Run| match (run.source, output, pool) {
            (Matrices::Dense, Some(o), _) => Ok(o),
            (Matrices::Record(r), _, Some(p)) => c.record(p, c.bundle.record(p, r), Role::Output),
            _ => Err(misplaced(step)),
        };
        let part = |run| Ok(product::Part { run, weights: weights(run)?, y: rows(run) });
        join.told(c, &work.runs.iter().map(part).collect::<Result<Vec<_>>>()?, pending, x);
        return match (&a.o, work.dense_run()) {
            (Part::Shared(o), Some(run)) => adapter::join(c, o, None, (&join, run, rows(run)), x),
            _ => Ok(()),
        };
    };
    pending.resize(groups_of(x.width) * work.rows(), [0.0; GROUP]);
    experts.rewind();
    while let Some(wave) = experts.wave()? {
        let part = |(run, bytes)| Ok(product::Part { run, weights: c.record(pool, bytes, Role::Output)?, y: rows(run) });
        join.some(c, &wave.into_iter().map(part).collect::<Result<Vec<_>>>()?, pending);
    }
    c.tell_lengths(&work, pending);
    join.sum(c, pending, x);
    Ok(())
}

fn misplaced(step: &Step) -> Error {
    Error::Input(format!("step {:?} has rows without matrices or a cache of another kind", step.name))
}

/// What heads bring back, `[value]` each.
enum Values<'a> {
    Mixed(&'a Mixed<'a>),
    /// One for each head.
    Expanded(Vec<Vectors<'a>>),
}

impl Values<'_> {
    /// Elements `from..from + out.len()` of a head.
    fn read(&self, row: usize, head: usize, from: usize, out: &mut [f32]) {
        match self {
            Values::Mixed(mixed) => out.copy_from_slice(&mixed.head(row, head)[from..from + out.len()]),
            Values::Expanded(heads) => heads[head].read(row, from, out),
        }
    }
}

/// The rows of work of each expert, in the order of tokens, which follow those it has.
fn by_expert(routes: &Routes, work: &Worklist, has: impl Fn(u32) -> usize) -> BTreeMap<u32, Vec<Entry>> {
    let mut out: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for (route, (row, token)) in routes.list.iter().zip(work.of_routes()) {
        let entries = out.entry(route.expert).or_default();
        entries.push(Entry { row, token, at: has(route.expert) + entries.len() });
    }
    out
}

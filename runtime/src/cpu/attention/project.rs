//! Queries, keys and values of a batch, from wherever the plan takes them.

use super::super::adapter;
use super::super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::super::context::Context;
use super::super::experts::Coming;
use super::super::heads::{Place, Vectors};
use super::super::kernels::Group;
use super::super::norm::{Gain, normalise};
use super::super::product::{Job, expand};
use super::super::routes::{Source, Worklist};
use super::super::share;
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::plan::{Attention, Part, Pool, Role};
use crate::profile::Side;

/// Space of projections, kept between steps.
#[derive(Debug, Default)]
pub(super) struct ProjectSpace {
    gathered: Batch,
    /// The narrow middle of queries in two stages, and the same normalised.
    low: Slab,
    lowered: Batch,
    /// As they come out of their matrices: queries, then keys, then values. Those of routes are `[run][groups][rows of the run]`, those of
    /// tokens `[groups][tokens]`.
    projected: Vec<Group>,
    /// Routed ones added up for each token, `[groups][tokens]` each.
    summed: Vec<Group>,
}

const ROLES: [Role; 3] = [Role::Query, Role::Key, Role::Value];

/// The forms of the input that the step reads, apart from its router.
pub(in super::super) fn forms(c: &Context<'_>, a: &Attention, pool: Option<&Pool>) -> Result<Forms> {
    let mut forms = pool.map_or(Forms::default(), |p| Forms::for_codec(p.codec).and(c.measured()));
    for part in [&a.q, &a.k, &a.v] {
        forms = forms.and(match part {
            Part::Shared(l) | Part::LowRank { down: l, .. } => adapter::forms(c, l)?,
            Part::Input => Forms { floats: true, rounded: false },
            Part::Expert | Part::Sum { .. } => Forms::default(),
        });
    }
    Ok(forms)
}

/// Projects `input`, `groups` wide. Rows of what is routed are those of `work`, of the rest tokens. `experts` are those of `pool` when they
/// come one after the other.
pub(super) fn project<'s>(
    c: &Context<'_>,
    a: &Attention,
    (work, pool, experts): (&Worklist, Option<usize>, Option<&mut Coming<'_, '_>>),
    (input, groups): (View<'s>, usize),
    space: &'s mut ProjectSpace,
) -> Result<[Vectors<'s>; 3]> {
    let ProjectSpace { gathered, low, lowered, projected, summed } = space;
    let (parts, tokens) = ([&a.q, &a.k, &a.v], input.rows);
    let state = &c.bundle.plan().states[a.state as usize];
    let inner = a.heads * a.head_dim;
    let kv = state.kv_heads * state.head_dim;
    let widths = [inner, kv, kv].map(|w| groups_of(w as usize));
    if let Part::LowRank { down, norm, up } = &a.q {
        let down = c.linear(down)?;
        low.reset(tokens, down.matrix.layout().rows);
        expand(c, &[Job::linear(down, input)], BatchMut::floats(&mut low.data));
        normalise(c, Some(Gain::of(c, norm)?), low, lowered, Forms::for_codec(c.linear(up)?.codec()));
    }

    // Routed parts come first: they are all of them, or the queries.
    let (mut at, mut begins, mut routed, mut dense) = (0, [0; 3], 0, Vec::new());
    for (i, part) in parts.into_iter().enumerate() {
        begins[i] = at;
        let job = match part {
            Part::Expert | Part::Sum { .. } => {
                routed = i + 1;
                at += work.rows() * widths[i];
                continue;
            }
            // Values that are keys.
            _ if i == 2 && state.tied => continue,
            Part::Input => continue,
            Part::Shared(l) => Job::linear(c.linear(l)?, input),
            Part::LowRank { up, .. } => Job::linear(c.linear(up)?, lowered.view(0, groups_of(low.width), tokens)),
        };
        at += job.len();
        dense.push(job);
    }
    projected.resize(at, [0.0; GROUP]);
    let forms = forms(c, a, pool.map(|p| &c.bundle.plan().pools[p]))?;
    let inputs = work.inputs(c, &work.runs.iter().collect::<Vec<_>>(), input, groups, gathered, forms);
    if routed > 0 {
        c.measure(pool, Side::Input, work.runs.iter().zip(inputs.iter().copied()));
    }
    match (experts, pool) {
        (Some(experts), Some(pool)) => {
            let routed_end = begins[..routed].last().map_or(0, |b| b + work.rows() * widths[routed - 1]);
            expand(c, &dense, BatchMut::floats(&mut projected[routed_end..]));
            while let Some(wave) = experts.wave()? {
                for (run, bytes) in wave {
                    let x = work.runs.iter().position(|r| r.source == run.source).map_or(input, |i| inputs[i]);
                    for (i, role) in ROLES.into_iter().take(routed).enumerate() {
                        let place = begins[i] + run.rows.start * widths[i]..begins[i] + run.rows.end * widths[i];
                        let job = Job::linear(c.record(pool, bytes, role)?, x);
                        expand(c, &[job], BatchMut::floats(&mut projected[place]));
                    }
                }
            }
        }
        (_, pool) => {
            let mut jobs = Vec::new();
            for role in ROLES.into_iter().take(routed) {
                for (run, &x) in work.runs.iter().zip(&inputs) {
                    let (Source::Record(record), Some(pool)) = (run.source, pool) else { return Err(nothing_routed()) };
                    jobs.push(Job::linear(c.record(pool, c.bundle.record(pool, record), role)?, x));
                }
            }
            jobs.extend(dense);
            expand(c, &jobs, BatchMut::floats(projected));
        }
    }

    for (i, part) in parts.into_iter().enumerate() {
        if let Part::Shared(l) = part
            && !(i == 2 && state.tied)
        {
            let len = groups_of(c.linear(l)?.matrix.layout().rows) * tokens;
            adapter::add(c, l, None, input, &mut projected[begins[i]..begins[i] + len])?;
        }
    }

    let projected = &projected[..];
    let of_routes = |i: usize| Vectors { data: projected, places: places(work, begins[i], widths[i]) };
    if let Part::Sum { weighted } = a.q {
        summed.resize(widths.iter().sum::<usize>() * tokens, [0.0; GROUP]);
        let mut rest = &mut summed[..];
        for (i, width) in widths.into_iter().enumerate() {
            let (out, others) = rest.split_at_mut(width * tokens);
            add_up(c, work, &of_routes(i), weighted, (out, tokens));
            rest = others;
        }
    }
    let vectors = |i: usize| match parts[i] {
        Part::Expert => of_routes(i),
        Part::Sum { .. } => Vectors::in_order(summed, widths[..i].iter().sum::<usize>() * tokens, tokens),
        Part::Input => Vectors::in_order(input.floats, 0, tokens),
        Part::Shared(_) | Part::LowRank { .. } => Vectors::in_order(projected, begins[i], tokens),
    };
    Ok([0, 1, if state.tied { 1 } else { 2 }].map(vectors))
}

fn nothing_routed() -> Error {
    Error::Input("an attention step has routed parts and no experts".into())
}

/// Where each row of the worklist is among `[run][groups][rows of the run]` that begin at group `at`.
fn places(work: &Worklist, at: usize, groups: usize) -> Vec<Place> {
    let place = |run: &std::ops::Range<usize>, row: usize| Place { at: at + run.start * groups + row - run.start, stride: run.len() };
    work.runs.iter().flat_map(|run| run.rows.clone().map(|row| place(&run.rows, row))).collect()
}

/// Adds the rows of each token up, in the order of its routes: `[groups][tokens]`.
fn add_up(c: &Context<'_>, work: &Worklist, rows: &Vectors<'_>, weighted: bool, (out, tokens): (&mut [Group], usize)) {
    let parts = share::parts(c.team.threads(), out.len()).min(out.len() / tokens);
    c.team.each(share::split(out, tokens, parts), |(groups, out)| {
        for (g, out) in groups.zip(out.chunks_mut(tokens)) {
            for (t, sum) in out.iter_mut().enumerate() {
                *sum = [0.0; GROUP];
                for (row, weight) in work.of_token(t) {
                    let weight = if weighted { weight } else { 1.0 };
                    sum.iter_mut().zip(rows.group(row, g)).for_each(|(s, y)| *s += weight * y);
                }
            }
        }
    });
}

//! Latent attention: what each head's own matrices do before and after the cache that all heads share.

use super::super::batch::{Batch, BatchMut, Forms, groups_of};
use super::super::context::{Context, Weights};
use super::super::heads::{Source, Vectors};
use super::super::kernels::Group;
use super::super::norm::fill;
use super::super::product::{Job, expand};
use super::readers::Mixed;
use crate::codec::{GROUP, PANEL};
use crate::error::Result;
use crate::plan::{Attention, Latent};

/// Space of a latent attention, kept between steps: what the heads' matrices are multiplied with, and what they give.
#[derive(Debug, Default)]
pub(super) struct LatentSpace {
    pub(super) gathered: Batch,
    pub(super) absorbed: Vec<Group>,
    pub(super) expanded: Vec<Group>,
}

/// Queries as they meet the cache: `[absorb_h · n; r]` of each head's `[n; r]`.
pub(super) fn absorb<'s>(
    c: &Context<'_>,
    (a, l): (&Attention, &Latent),
    queries: Vectors<'s>,
    gathered: &mut Batch,
    out: &'s mut Vec<Group>,
) -> Result<Source<'s>> {
    let (heads, rows, plain) = (a.heads as usize, queries.places.len(), l.query as usize);
    let rest = plain..plain + (a.head_dim - l.rank) as usize;
    let read = |head: usize, row: usize, from: usize, y: &mut [f32]| queries.read(row, head * rest.end + from, y);
    by_head(c, &l.absorb, (heads, l.rank as usize, plain), rows, (gathered, read), out)?;
    Ok(Source::Latent { absorbed: split(out, heads, l.rank as usize, rows), queries, rest })
}

/// The values of each head: `expand_h` times the latent that it mixed. `rows`: tokens.
pub(super) fn values<'s>(
    c: &Context<'_>,
    (a, l): (&Attention, &Latent),
    (mixed, rows): (&Mixed<'_>, usize),
    gathered: &mut Batch,
    out: &'s mut Vec<Group>,
) -> Result<Vec<Vectors<'s>>> {
    let heads = a.heads as usize;
    let read = |head: usize, row: usize, from: usize, y: &mut [f32]| y.copy_from_slice(&mixed.head(row, head)[from..from + y.len()]);
    by_head(c, &l.expand, (heads, l.value as usize, l.rank as usize), rows, (gathered, read), out)?;
    Ok(split(out, heads, l.value as usize, rows))
}

/// Each head's `[height, width]` matrix of a stack times its own `rows` vectors: `[heads][groups of height][rows]`.
fn by_head(
    c: &Context<'_>,
    stack: &str,
    (heads, height, width): (usize, usize, usize),
    rows: usize,
    (gathered, read): (&mut Batch, impl Fn(usize, usize, usize, &mut [f32]) + Sync),
    out: &mut Vec<Group>,
) -> Result<()> {
    let stack = Weights::plain(c.bundle.matrix(stack)?);
    fill(c, &vec![rows; heads], width, (gathered, Forms::for_codec(stack.codec())), read);
    let (panels, groups) = (height.div_ceil(PANEL), groups_of(width));
    let job = |h: usize| {
        let weights = Weights { panels: (h * panels, (h + 1) * panels), ..stack };
        Job::linear(weights, gathered.view(h * groups * rows, groups, rows))
    };
    let jobs: Vec<Job<'_>> = (0..heads).map(job).collect();
    out.resize(jobs.iter().map(Job::len).sum(), [0.0; GROUP]);
    expand(c, &jobs, BatchMut::floats(out));
    Ok(())
}

fn split(data: &[Group], heads: usize, height: usize, rows: usize) -> Vec<Vectors<'_>> {
    (0..heads).map(|h| Vectors::in_order(data, h * groups_of(height) * rows, rows)).collect()
}

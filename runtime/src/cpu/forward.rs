//! The interpreter: a batch of tokens through the plan's steps.

use super::attention::{self, AttentionSpace};
use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::cache::Head;
use super::context::Context;
use super::ffn::{self, FfnSpace};
use super::norm::{Gain, normalise};
use super::product::{Job, expand};
use super::router::{self, RouterSpace};
use super::routes::Routes;
use crate::error::{Error, Result};
use crate::experts::{Pass, RecordId};
use crate::plan::Work;

/// Everything a forward pass writes but the caches, kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// The residual stream.
    x: Slab,
    /// The step's normalised input.
    input: Batch,
    router: RouterSpace,
    ffn: FfnSpace,
    attention: AttentionSpace,
    /// Streams whose logits are wanted, and the logits.
    last: Slab,
    logits: Slab,
}

/// Runs `tokens` through all steps and appends them to `caches`; [`head`] reads the result. Notes in `pass` which records that takes.
///
/// # Errors
/// When the stream is not finite at the end.
pub(super) fn forward(
    c: &Context<'_>,
    tokens: &[u32],
    caches: &mut [Vec<Head>],
    space: &mut Space,
    mut pass: Option<&mut Pass>,
) -> Result<()> {
    let plan = c.bundle.plan();
    let table = c.bundle.matrix(&plan.embedding.table)?;
    let mut row = vec![0.0; plan.width as usize];
    space.x.reset(tokens.len(), row.len());
    for (t, &token) in tokens.iter().enumerate() {
        table.row(token as usize, &mut row);
        row.iter_mut().for_each(|v| *v *= plan.embedding.scale);
        space.x.set_row(t, &row);
    }
    for i in 0..plan.steps.len() {
        step(c, i, caches, space, pass.as_deref_mut())?;
    }
    match space.x.data.as_flattened().iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error::NotFinite(format!("the value {v}"))),
        None => Ok(()),
    }
}

/// `x += scale * (work(norm(x)) + bias)`.
fn step(c: &Context<'_>, index: usize, caches: &mut [Vec<Head>], space: &mut Space, pass: Option<&mut Pass>) -> Result<()> {
    let step = &c.bundle.plan().steps[index];
    let Space { x, input, router, ffn, attention, .. } = space;
    let pool = step.routed.as_ref().map(|r| &c.bundle.plan().pools[r.pool as usize]);
    let mut forms = match &step.work {
        Work::Attention(a) => attention::forms(c, a, pool)?,
        Work::Ffn(f) => ffn::forms(c, f, pool)?,
        Work::Convolution(_) | Work::Identity => unimplemented!("fast path"),
    };
    if let Some(r) = &step.routed {
        forms = forms.and(router::forms(c, &r.router)?);
    }
    let gain = step.norm.as_ref().map(|n| Gain::of(c, n)).transpose()?;
    normalise(c, gain, x, input, forms);
    let a = input.view(0, groups_of(x.width), x.rows);

    let routes = match (&step.routed, pool) {
        (Some(r), Some(pool)) => router::route(c, &r.router, pool, a, router)?,
        _ => Routes::none(x.rows),
    };
    if let Some(pass) = pass {
        pass.0.push(routes.records());
    }
    // Where everything is at hand nobody has to be protected.
    if let Some(mut host) = c.host().filter(|h| !h.tier().is_complete()) {
        let ids = guess(c, index, a, router)?.into_iter().flat_map(|(pool, routes)| routes.list.into_iter().map(move |(r, _)| (pool, r)));
        let ids: Vec<RecordId> = ids.map(|(pool, r)| host.tier().catalogue().id(pool, r)).collect();
        host.expect(ids);
    }
    let pool = step.routed.as_ref().map(|r| r.pool as usize);
    match &step.work {
        Work::Attention(w) => attention::run(c, (index, step, w), (pool, &routes), a, &mut caches[w.state as usize], attention, x),
        Work::Ffn(w) => ffn::run(c, (index, step, w), (pool, &routes), a, ffn, x),
        Work::Convolution(_) | Work::Identity => unimplemented!("fast path"),
    }
}

/// What the next routed step will probably use, and of which pool: its router's choice for the input `a` of this one. Streams change
/// little from step to step.
fn guess(c: &Context<'_>, index: usize, a: View<'_>, space: &mut RouterSpace) -> Result<Option<(usize, Routes)>> {
    let (plan, this) = (c.bundle.plan(), c.bundle.plan().steps[index].routed.is_some());
    let Some(next) = plan.steps[index + 1..].iter().find_map(|s| s.routed.as_ref()).filter(|_| this) else { return Ok(None) };
    if !a.has(router::forms(c, &next.router)?) {
        return Ok(None);
    }
    let routes = router::route(c, &next.router, &plan.pools[next.pool as usize], a, space)?;
    Ok(Some((next.pool as usize, routes)))
}

/// Appends the logits of the last `count` tokens, row after row, to `out`.
///
/// # Errors
/// When one is not finite.
pub(super) fn head(c: &Context<'_>, count: usize, space: &mut Space, out: &mut Vec<f32>) -> Result<()> {
    let (head, vocab) = (&c.bundle.plan().head, c.bundle.plan().vocab as usize);
    let Space { x, input, last, logits, .. } = space;
    last.reset(count, x.width);
    for (x, last) in x.data.chunks(x.rows).zip(last.data.chunks_mut(count)) {
        last.copy_from_slice(&x[x.len() - count..]);
    }
    let weights = c.linear(&head.output)?;
    normalise(c, Some(Gain::of(c, &head.norm)?), last, input, Forms::for_codec(weights.matrix.layout().codec));
    logits.reset(count, vocab);
    expand(c, &[Job::linear(weights, input.view(0, groups_of(x.width), count))], BatchMut::floats(&mut logits.data));
    let start = out.len();
    out.resize(start + count * vocab, 0.0);
    for (t, row) in out[start..].chunks_mut(vocab).enumerate() {
        logits.row(t, row);
        row.iter_mut().for_each(|l| *l *= head.scale);
    }
    match out[start..].iter().find(|l| !l.is_finite()) {
        Some(l) => Err(Error::NotFinite(format!("the logit {l}"))),
        None => Ok(()),
    }
}

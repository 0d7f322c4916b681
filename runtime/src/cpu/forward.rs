//! The interpreter: a batch of tokens through the plan's steps.

use super::adapter;
use super::ahead::Ahead;
use super::attention::{self, AttentionSpace};
use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::context::Context;
use super::convolution::{self, ConvolutionSpace};
use super::ffn::{self, FfnSpace};
use super::norm::{Gain, normalise};
use super::product::{Job, Join, expand};
use super::router::{self, RouterSpace};
use super::routes::{Routes, Worklist};
use super::state::Cache;
use crate::error::{Error, Result};
use crate::experts::Pass;
use crate::plan::{self, Embedding, Feature, Router, Work};
use crate::profile::StepNotes;

/// Everything a forward pass writes but the caches, kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// The residual stream and those beside it.
    streams: Vec<Slab>,
    /// What recurrent routers carry.
    memories: Vec<Slab>,
    /// The step's normalised input.
    input: Batch,
    features: Features,
    router: RouterSpace,
    ffn: FfnSpace,
    attention: AttentionSpace,
    convolution: ConvolutionSpace,
    /// Streams whose logits are wanted, and the logits.
    last: Slab,
    logits: Slab,
}

/// What is written down while a batch goes through the steps, of what somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Records of each step.
    pub(super) pass: Option<Pass>,
    /// Routes of each routed step.
    pub(super) steps: Option<Vec<StepNotes>>,
}

/// A stream that a router looks at, in the forms it wants.
pub(super) type Features = Batch;

/// Runs `tokens` through all steps and appends them to `caches`; [`head`] reads the result.
///
/// # Errors
/// When a stream is not finite at the end.
pub(super) fn forward(c: &Context<'_>, tokens: &[u32], caches: &mut [Cache], space: &mut Space, notes: &mut Notes) -> Result<()> {
    let plan = c.bundle.plan();
    space.streams.resize_with(1 + plan.streams.len(), Slab::default);
    embed(c, Some(&plan.embedding), tokens, plan.width, &mut space.streams[0])?;
    for (stream, x) in plan.streams.iter().zip(&mut space.streams[1..]) {
        embed(c, stream.embedding.as_ref(), tokens, stream.width, x)?;
    }
    space.memories.resize_with(plan.memories.len(), Slab::default);
    for (&width, memory) in plan.memories.iter().zip(&mut space.memories) {
        memory.reset(tokens.len(), width as usize);
    }
    let mut ahead = Ahead::new(plan);
    for i in 0..plan.steps.len() {
        step(c, i, caches, space, &mut ahead, notes)?;
    }
    match space.streams.iter().flat_map(|x| x.data.as_flattened()).find(|v| !v.is_finite()) {
        Some(v) => Err(Error::NotFinite(format!("the value {v}"))),
        None => Ok(()),
    }
}

/// Fills a stream of `width` with the tokens' embeddings, or with zeros.
fn embed(c: &Context<'_>, embedding: Option<&Embedding>, tokens: &[u32], width: u32, x: &mut Slab) -> Result<()> {
    let width = width as usize;
    x.reset(tokens.len(), width);
    let Some(e) = embedding else { return Ok(()) };
    let table = c.bundle.matrix(&e.table)?;
    let positions = e.positions.as_ref().map(|p| c.bundle.matrix(p)).transpose()?;
    let (mut row, mut position) = (vec![0.0; width], vec![0.0; width]);
    for (t, &token) in tokens.iter().enumerate() {
        table.row(token as usize, &mut row);
        row.iter_mut().for_each(|v| *v *= e.scale);
        if let Some(positions) = &positions {
            let at = c.position + t;
            if at >= positions.layout().rows {
                return Err(Error::Input(format!("this model has no position {at}; start a new conversation")));
            }
            positions.row(at, &mut position);
            row.iter_mut().zip(&position).for_each(|(v, p)| *v += p);
        }
        x.set_row(t, &row);
    }
    Ok(())
}

/// `to += scale * (work(norm(from)) + bias)`.
fn step(c: &Context<'_>, index: usize, caches: &mut [Cache], space: &mut Space, ahead: &mut Ahead, notes: &mut Notes) -> Result<()> {
    let plan = c.bundle.plan();
    let step = &plan.steps[index];
    let Space { streams, memories, input, features, router, ffn, attention, convolution, .. } = space;
    let pool = step.routed.as_ref().map(|r| &plan.pools[r.pool as usize]);
    let mut forms = match &step.work {
        Work::Attention(a) => attention::forms(c, a, pool)?,
        Work::Ffn(f) => ffn::forms(c, f, pool)?.and(adapter::mixture_forms(c, index)?),
        Work::Convolution(w) => convolution::forms(c, w)?,
        Work::Identity => Forms { floats: true, rounded: false },
    };
    if let Some(r) = step.routed.as_ref().filter(|r| r.router.feature == Feature::Input) {
        forms = forms.and(router::forms(c, &r.router)?);
    }
    let x = &streams[step.from as usize];
    let (rows, groups) = (x.rows, groups_of(x.width));
    let gain = step.norm.as_ref().map(|n| Gain::of(c, n)).transpose()?;
    normalise(c, gain, x, input, forms);
    let a = input.view(0, groups, rows);

    let routes = match (&step.routed, pool, ahead.take(index)) {
        (_, _, Some(routes)) => routes,
        (Some(r), Some(pool), None) => match feature(c, &r.router, Some(a), streams, features)? {
            Some(x) => router::route(c, &r.router, pool, x, memories, router)?,
            None => Routes::none(rows),
        },
        _ => Routes::none(rows),
    };
    if let Some(pass) = &mut notes.pass {
        pass.0.push(routes.records());
    }
    // Where everything is at hand nobody has to be protected.
    if c.host().is_some_and(|h| !h.tier().is_complete()) {
        let records = ahead.look(c, index, (step.routed.is_some().then_some(a), streams), features, router)?;
        if let Some(mut host) = c.host() {
            let ids: Vec<_> = records.into_iter().map(|(pool, r)| host.tier().catalogue().id(pool, r)).collect();
            host.expect(ids);
            if step.routed.is_none() {
                host.prefetch();
            }
        }
    }
    let x = &mut streams[step.to as usize];
    if step.join == plan::Join::Replace {
        x.data.fill(Default::default());
    }
    let pool = step.routed.as_ref().map(|r| r.pool as usize);
    match &step.work {
        Work::Attention(w) => attention::run(c, (index, step, w), (pool, &routes), a, &mut caches[w.state as usize], attention, x)?,
        Work::Ffn(w) => match adapter::changed(plan, index, w) {
            None => ffn::run(c, (index, step, w), (pool, &routes), a, ffn, x)?,
            Some(shared) => {
                ffn::run(c, (index, step, &plan::Ffn { shared: None }), (pool, &routes), a, ffn, x)?;
                adapter::shared(c, (index, step), shared, a, x)?;
            }
        },
        Work::Convolution(w) => match &mut caches[w.state as usize] {
            Cache::Recent(recent) => convolution::run(c, (step, w), a, recent, convolution, x)?,
            Cache::Rows(_) | Cache::Ragged(_) => return Err(Error::Input(format!("step {:?} has a cache of another kind", step.name))),
        },
        Work::Identity => {
            let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
            Join { work: &Worklist::dense(rows), scale: step.scale, bias }.sum(c, a.floats, x);
        }
    }
    if let Some(steps) = notes.steps.as_mut().filter(|_| step.routed.is_some()) {
        steps.push(routes.notes(c.take_lengths()));
    }
    Ok(())
}

/// What a router looks at: `input`, or a stream as it is now. `None` when the input is not there in the form it wants.
pub(super) fn feature<'f>(
    c: &Context<'_>,
    router: &Router,
    input: Option<View<'f>>,
    streams: &[Slab],
    features: &'f mut Features,
) -> Result<Option<View<'f>>> {
    let forms = router::forms(c, router)?;
    match router.feature {
        Feature::Input => Ok(input.filter(|x| x.has(forms))),
        Feature::Stream(s) => {
            let x = &streams[s as usize];
            normalise(c, None, x, features, forms);
            Ok(Some(features.view(0, groups_of(x.width), x.rows)))
        }
    }
}

/// Appends the logits of the last `count` tokens, row after row, to `out`.
///
/// # Errors
/// When one is not finite.
pub(super) fn head(c: &Context<'_>, count: usize, space: &mut Space, out: &mut Vec<f32>) -> Result<()> {
    let (head, vocab) = (&c.bundle.plan().head, c.bundle.plan().vocab as usize);
    let Space { streams, input, last, logits, .. } = space;
    let x = &streams[0];
    last.reset(count, x.width);
    for (x, last) in x.data.chunks(x.rows).zip(last.data.chunks_mut(count)) {
        last.copy_from_slice(&x[x.len() - count..]);
    }
    let weights = c.linear(&head.output)?;
    normalise(c, Some(Gain::of(c, &head.norm)?), last, input, Forms::for_codec(weights.codec()));
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

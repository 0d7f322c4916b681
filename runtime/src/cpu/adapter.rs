//! What a session's adapter adds to linear maps outside the pools.

use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::context::{Context, Weights};
use super::ffn::shared_weights;
use super::kernels::Group;
use super::product::{Job, Join, Part, expand};
use super::router::{self, RouterSpace};
use super::routes::{Routes, Run, Source, Worklist};
use crate::codec::GROUP;
use crate::error::Result;
use crate::model::Routing;
use crate::plan::{Activation, Delta, Ffn, Linear, Plan, Router, SharedFfn, Step};

fn delta<'p>(plan: &'p Plan, l: &Linear) -> Option<&'p Delta> {
    plan.adapter.as_ref()?.deltas.get(&l.weight)
}

/// The router of a feed-forward step whose always-on part has become a mixture.
fn mixture(plan: &Plan, step: usize) -> Option<&Router> {
    plan.adapter.as_ref()?.mixtures.get(&u32::try_from(step).ok()?)
}

/// A step's always-on part, if the adapter changes it.
pub(super) fn changed<'p>(plan: &Plan, step: usize, ffn: &'p Ffn) -> Option<&'p SharedFfn> {
    let s = ffn.shared.as_ref()?;
    let maps = s.gate.iter().chain([&s.up, &s.down]);
    (mixture(plan, step).is_some() || maps.into_iter().any(|l| delta(plan, l).is_some())).then_some(s)
}

/// The forms of `x` that `l` and what is added to it read.
pub(super) fn forms(c: &Context<'_>, l: &Linear) -> Result<Forms> {
    let forms = Forms::for_codec(c.linear(l)?.codec());
    let Some(d) = delta(c.bundle.plan(), l) else { return Ok(forms) };
    let router = d.router.as_ref().map_or(Ok(Forms::default()), |r| router::forms(c, r))?;
    Ok(forms.and(router).and(Forms::for_codec(c.bundle.matrix(&d.down)?.layout().codec)))
}

/// The forms of a feed-forward step's input that the adapter's mixture reads.
pub(super) fn mixture_forms(c: &Context<'_>, step: usize) -> Result<Forms> {
    mixture(c.bundle.plan(), step).map_or(Ok(Forms::default()), |r| router::forms(c, r))
}

/// Adds to `y`, `[groups][rows]`, what the adapter adds to `l · x`. `experts`: the one that works for each row, inside a mixture.
pub(super) fn add(c: &Context<'_>, l: &Linear, experts: Option<&[u32]>, x: View<'_>, y: &mut [Group]) -> Result<()> {
    let Some(d) = delta(c.bundle.plan(), l) else { return Ok(()) };
    let (middle, up) = weighed(c, d, experts, x)?;
    let mut more = vec![[0.0; GROUP]; y.len()];
    expand(c, &[Job::linear(up, middle.view(0, up.matrix.layout().groups(), x.rows))], BatchMut::floats(&mut more));
    y.as_flattened_mut().iter_mut().zip(more.as_flattened()).for_each(|(y, m)| *y += m);
    Ok(())
}

/// The same for a map whose results `join` brings to the stream; `run` has all rows of its worklist.
pub(super) fn join(
    c: &Context<'_>,
    l: &Linear,
    experts: Option<&[u32]>,
    (join, run, y): (&Join<'_>, &Run, View<'_>),
    x: &mut Slab,
) -> Result<()> {
    let Some(d) = delta(c.bundle.plan(), l) else { return Ok(()) };
    let (middle, up) = weighed(c, d, experts, y)?;
    let part = Part { run, weights: up, y: middle.view(0, up.matrix.layout().groups(), y.rows) };
    Join { bias: None, ..*join }.all(c, &[part], x);
    Ok(())
}

/// `w ⊙ (down · x)`, `[groups of E·r][rows]`, and the matrix that takes it up.
fn weighed<'c>(c: &Context<'c>, d: &Delta, experts: Option<&[u32]>, x: View<'_>) -> Result<(Batch, Weights<'c>)> {
    let (down, up) = (Weights::plain(c.bundle.matrix(&d.down)?), Weights::plain(c.bundle.matrix(&d.up)?));
    let (rank, mut z) = (d.rank as usize, Slab::default());
    z.reset(x.rows, d.experts as usize * rank);
    expand(c, &[Job::linear(down, x)], BatchMut::floats(&mut z.data));
    let routes = match &d.router {
        Some(r) if experts.is_none() => Some(choose(c, r, d.experts, x)?),
        _ => None,
    };
    let (mut row, mut weights) = (vec![0.0; z.width], vec![1.0; d.experts as usize]);
    for t in 0..x.rows {
        if let Some(experts) = experts {
            weights.fill(0.0);
            weights[experts[t] as usize] = 1.0;
        }
        if let Some(routes) = &routes {
            weights.fill(0.0);
            routes.of_token(t).iter().for_each(|r| weights[r.expert as usize] = r.weight);
        }
        z.row(t, &mut row);
        row.chunks_mut(rank).zip(&weights).for_each(|(z, w)| z.iter_mut().for_each(|z| *z *= w));
        z.set_row(t, &row);
    }
    let mut middle = Batch::default();
    middle.reset(z.data.len(), Forms::for_codec(up.codec()));
    middle.as_mut().put(c.kernels, 0, &z.data);
    Ok((middle, up))
}

fn choose(c: &Context<'_>, router: &Router, experts: u32, x: View<'_>) -> Result<Routes> {
    router::choose(c, (router, Routing::Planned), (experts, Some), x, &mut [], &mut RouterSpace::default())
}

/// Adds the changed always-on part of a feed-forward step to the stream: `x += scale * Σ weight · part(input)`.
pub(super) fn shared(c: &Context<'_>, (index, step): (usize, &Step), s: &SharedFfn, input: View<'_>, x: &mut Slab) -> Result<()> {
    let plan = c.bundle.plan();
    let of_tokens = shared_weights(c, s, input, &mut Slab::default())?;
    let mut maps = s.gate.iter().chain([&s.up, &s.down]).filter_map(|l| delta(plan, l));
    let (work, experts) = match (mixture(plan, index), maps.next()) {
        (Some(router), Some(d)) => {
            let mut routes = choose(c, router, d.experts, input)?;
            routes.scale(&of_tokens);
            let work = Worklist::new(&routes, None);
            let experts: Vec<u32> = work.experts().flat_map(|(e, run)| run.rows.clone().map(move |_| e)).collect();
            (work, Some(experts))
        }
        _ => (Worklist::new(&Routes::none(input.rows), Some(&of_tokens)), None),
    };
    if work.rows() == 0 {
        return Ok(());
    }
    let (all, experts) = (Run { source: Source::Dense, rows: 0..work.rows() }, experts.as_deref());
    let mut wanted = forms(c, &s.up)?;
    for l in &s.gate {
        wanted = wanted.and(forms(c, l)?);
    }
    let mut gathered = Batch::default();
    let inputs = work.inputs(c, &[&all], input, groups_of(x.width), &mut gathered, wanted);
    let through = |l: &Linear| -> Result<Vec<Group>> {
        let job = Job::linear(c.linear(l)?, inputs[0]);
        let mut y = vec![[0.0; GROUP]; job.len()];
        expand(c, &[job], BatchMut::floats(&mut y));
        add(c, l, experts, inputs[0], &mut y)?;
        Ok(y)
    };
    let mut hidden = through(s.gate.as_ref().unwrap_or(&s.up))?;
    c.kernels.activate(s.activation, &mut hidden);
    if s.gate.is_some() {
        let times = through(&s.up)?;
        let times = times.as_flattened().iter().map(|&u| match s.activation {
            Activation::Clamped { limit, .. } => u.clamp(-limit, limit) + 1.0,
            _ => u,
        });
        hidden.as_flattened_mut().iter_mut().zip(times).for_each(|(h, u)| *h *= u);
    }
    let mut batch = Batch::default();
    batch.reset(hidden.len(), forms(c, &s.down)?);
    batch.as_mut().put(c.kernels, 0, &hidden);
    let down = c.linear(&s.down)?;
    let y = batch.view(0, down.matrix.layout().groups(), work.rows());
    let to = Join { work: &work, scale: step.scale, bias: None };
    to.all(c, &[Part { run: &all, weights: down, y }], x);
    join(c, &s.down, experts, (&to, &all, y), x)
}

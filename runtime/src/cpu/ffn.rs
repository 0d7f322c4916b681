//! Feed-forward steps: routed experts, an always-on part, or both at once.

use super::adapter;
use super::batch::{Batch, Forms, Slab, View, groups_of};
use super::context::{Context, Weights};
use super::experts::Coming;
use super::kernels::Group;
use super::product::{Job, Join, Part, expand};
use super::routes::{Routes, Run, Source, Worklist};
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::plan::{Activation, Expert, Ffn, Pool, Role, SharedFfn, Step};
use crate::profile::Side;

/// Space of a feed-forward step, kept between steps.
#[derive(Debug, Default)]
pub(super) struct FfnSpace {
    gathered: Batch,
    hidden: Batch,
    weigh: Slab,
    /// `[groups of the stream][rows]` of a step whose experts come one after the other.
    pending: Vec<Group>,
}

/// The matrices of one source.
#[derive(Clone, Copy)]
pub(super) struct Matrices<'a> {
    gate: Option<Weights<'a>>,
    up: Weights<'a>,
    down: Weights<'a>,
    activation: Activation,
}

impl<'a> Matrices<'a> {
    fn shared(c: &Context<'a>, s: &SharedFfn) -> Result<Matrices<'a>> {
        let gate = s.gate.as_ref().map(|g| c.linear(g)).transpose()?;
        Ok(Matrices { gate, up: c.linear(&s.up)?, down: c.linear(&s.down)?, activation: s.activation })
    }

    /// Those of a record.
    pub(super) fn record(c: &Context<'_>, pool: usize, record: &'a [u8]) -> Result<Matrices<'a>> {
        match c.bundle.plan().pools[pool].expert {
            Expert::Ffn { gated, activation, .. } => Ok(Matrices {
                gate: gated.then(|| c.record(pool, record, Role::Gate)).transpose()?,
                up: c.record(pool, record, Role::Up)?,
                down: c.record(pool, record, Role::Down)?,
                activation,
            }),
            Expert::QueryOutput { .. } | Expert::Attention { .. } => Err(Error::Input(format!("pool {pool} has no feed-forward experts"))),
        }
    }

    /// `act(gate x) ⊙ up x`, or `act(up x)`.
    fn hidden(&self, x: View<'a>) -> Job<'a> {
        let first = self.gate.unwrap_or(self.up);
        Job { weights: first, times: self.gate.and(Some(self.up)), activation: Some(self.activation), x }
    }
}

/// The forms of the input that the step reads, apart from its router.
pub(super) fn forms(c: &Context<'_>, ffn: &Ffn, pool: Option<&Pool>) -> Result<Forms> {
    let mut forms = pool.map_or(Forms::default(), |p| Forms::for_codec(p.codec).and(c.measured()));
    if let Some(s) = &ffn.shared {
        for l in [s.gate.as_ref(), Some(&s.up), s.weigh.as_ref()].into_iter().flatten() {
            forms = forms.and(adapter::forms(c, l)?);
        }
    }
    Ok(forms)
}

/// `x += scale * (experts and shared part of `input`, weighed, + bias)`. `routes` name records of `pool`.
pub(super) fn run(
    c: &Context<'_>,
    (index, step, ffn): (usize, &Step, &Ffn),
    (pool, routes): (Option<usize>, &Routes),
    input: View<'_>,
    space: &mut FfnSpace,
    x: &mut Slab,
) -> Result<()> {
    let FfnSpace { gathered, hidden, weigh, pending } = space;
    let shared = ffn.shared.as_ref().map(|s| Matrices::shared(c, s)).transpose()?;
    let shared_weights = ffn.shared.as_ref().map(|s| shared_weights(c, s, input, weigh)).transpose()?;
    let work = Worklist::new(routes, shared_weights.as_deref());
    let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let join = Join { work: &work, scale: step.scale, bias };
    let forms = forms(c, ffn, pool.map(|p| &c.bundle.plan().pools[p]))?;
    let widening = Widening { work: &work, pool, input, groups: groups_of(x.width), forms };

    let Some((mut host, pool)) = c.host().zip(pool) else {
        let matrices = |run: &Run| match (run.source, pool) {
            (Source::Dense, _) => shared.ok_or_else(|| no_matrices(step)),
            (Source::Record(r), Some(p)) => Matrices::record(c, p, c.bundle.record(p, r)),
            (Source::Record(_), None) => Err(no_matrices(step)),
        };
        let all = work.runs.iter().map(|run| Ok((run, matrices(run)?))).collect::<Result<Vec<_>>>()?;
        let parts = widening.widen(c, &all, gathered, hidden);
        join.told(c, &parts, pending, x);
        return Ok(());
    };

    let mut experts = Coming::new(&mut host, pool, index, &work)?;
    pending.resize(groups_of(x.width) * work.rows(), [0.0; GROUP]);
    // The always-on part first: experts are on their way meanwhile.
    if let (Some(shared), Some(run)) = (shared, work.dense_run()) {
        join.some(c, &widening.widen(c, &[(run, shared)], gathered, hidden), pending);
    }
    while let Some(wave) = experts.wave()? {
        let wave = wave.into_iter().map(|(run, bytes)| Ok((run, Matrices::record(c, pool, bytes)?))).collect::<Result<Vec<_>>>()?;
        join.some(c, &widening.widen(c, &wave, gathered, hidden), pending);
    }
    c.tell_lengths(&work, pending);
    join.sum(c, pending, x);
    Ok(())
}

fn no_matrices(step: &Step) -> Error {
    Error::Input(format!("step {:?} has rows without matrices", step.name))
}

/// The first half of an expert: from the step's input to its hidden layer.
pub(super) struct Widening<'a> {
    pub(super) work: &'a Worklist,
    /// The pool whose records are used, where they may be measured.
    pub(super) pool: Option<usize>,
    pub(super) input: View<'a>,
    /// Of the input.
    pub(super) groups: usize,
    pub(super) forms: Forms,
}

impl<'a> Widening<'a> {
    /// Fills `hidden` for these runs; what is left to do are their second halves.
    pub(super) fn widen<'w>(
        &self,
        c: &Context<'_>,
        runs: &[(&'w Run, Matrices<'w>)],
        gathered: &mut Batch,
        hidden: &'w mut Batch,
    ) -> Vec<Part<'w>>
    where
        'a: 'w,
    {
        let inputs = self.work.inputs(c, &runs.iter().map(|r| r.0).collect::<Vec<_>>(), self.input, self.groups, gathered, self.forms);
        c.measure(self.pool, Side::Input, runs.iter().map(|r| r.0).zip(inputs.iter().copied()));
        let jobs: Vec<Job<'_>> = runs.iter().zip(&inputs).map(|((_, m), &x)| m.hidden(x)).collect();
        let forms = runs.iter().fold(c.measured(), |f, (_, m)| f.and(Forms::for_codec(m.down.matrix.layout().codec)));
        hidden.reset(jobs.iter().map(Job::len).sum(), forms);
        expand(c, &jobs, hidden.as_mut());
        let sizes: Vec<(usize, usize, usize)> = jobs.iter().map(|j| (j.len(), j.weights.units(), j.x.rows)).collect();
        let hidden = &*hidden;
        let mut at = 0;
        let part = |(&(run, m), (len, units, rows)): (&(&'w Run, Matrices<'w>), (usize, usize, usize))| {
            at += len;
            Part { run, weights: m.down, y: hidden.view(at - len, units, rows) }
        };
        let parts: Vec<Part<'_>> = runs.iter().zip(sizes).map(part).collect();
        c.measure(self.pool, Side::Inner, parts.iter().map(|p| (p.run, p.y)));
        parts
    }
}

/// What the always-on part of each token is multiplied by.
pub(super) fn shared_weights(c: &Context<'_>, s: &SharedFfn, input: View<'_>, logits: &mut Slab) -> Result<Vec<f32>> {
    let Some(weigh) = &s.weigh else {
        return Ok(vec![1.0; input.rows]);
    };
    logits.reset(input.rows, 1);
    expand(c, &[Job::linear(c.linear(weigh)?, input)], super::batch::BatchMut::floats(&mut logits.data));
    Ok(logits.data.iter().map(|g| 1.0 / (1.0 + (-g[0]).exp())).collect())
}

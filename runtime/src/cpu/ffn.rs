//! Feed-forward steps: routed experts, an always-on part, or both at once.

use super::batch::{Batch, Forms, Slab, View, groups_of};
use super::context::{Context, Weights};
use super::product::{Job, Join, expand, join};
use super::routes::{Routes, Source, Worklist};
use crate::bundle::RecordView;
use crate::error::{Error, Result};
use crate::plan::{Activation, Expert, Ffn, Pool, Role, SharedFfn, Step};

/// Space of a feed-forward step, kept between steps.
#[derive(Debug, Default)]
pub(super) struct FfnSpace {
    gathered: Batch,
    hidden: Batch,
    weigh: Slab,
}

/// The matrices of one source.
#[derive(Clone, Copy)]
struct Matrices<'a> {
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

    /// `act(gate x) ⊙ up x`, or `act(up x)`.
    fn hidden(&self, x: View<'a>) -> Job<'a> {
        let first = self.gate.unwrap_or(self.up);
        Job { weights: first, times: self.gate.and(Some(self.up)), activation: Some(self.activation), x }
    }
}

/// The forms of the input that the step reads, apart from its router.
pub(super) fn forms(c: &Context<'_>, ffn: &Ffn, pool: Option<&Pool>) -> Result<Forms> {
    let mut forms = pool.map_or(Forms::default(), |p| Forms::for_codec(p.codec));
    if let Some(s) = &ffn.shared {
        for l in [s.gate.as_ref(), Some(&s.up), s.weigh.as_ref()].into_iter().flatten() {
            forms = forms.and(Forms::for_codec(c.linear(l)?.matrix.layout().codec));
        }
    }
    Ok(forms)
}

/// One matrix of a record.
pub(super) fn record<'a>(c: &Context<'a>, pool: usize, record: u32, role: Role) -> Result<Weights<'a>> {
    let view = RecordView::new(c.bundle.record_layout(pool), c.bundle.record(pool, record));
    let matrix = view.and_then(|v| v.matrix(role));
    matrix.map(Weights::plain).ok_or_else(|| Error::Input(format!("experts of pool {pool} have no {role:?} matrix")))
}

/// `x += scale * (experts and shared part of `input`, weighed, + bias)`. `routes` name records of `pool`.
pub(super) fn run(
    c: &Context<'_>,
    (step, ffn): (&Step, &Ffn),
    (pool, routes): (Option<usize>, &Routes),
    input: View<'_>,
    space: &mut FfnSpace,
    x: &mut Slab,
) -> Result<()> {
    let FfnSpace { gathered, hidden, weigh } = space;
    let shared = ffn.shared.as_ref().map(|s| Matrices::shared(c, s)).transpose()?;
    let shared_weights = ffn.shared.as_ref().map(|s| shared_weights(c, s, input, weigh)).transpose()?;
    let work = Worklist::new(routes, shared_weights.as_deref());

    let matrices = |source: Source| match (source, pool, shared) {
        (Source::Dense, _, Some(shared)) => Ok(shared),
        (Source::Record(r), Some(p), _) => match c.bundle.plan().pools[p].expert {
            Expert::Ffn { gated, activation, .. } => Ok(Matrices {
                gate: gated.then(|| record(c, p, r, Role::Gate)).transpose()?,
                up: record(c, p, r, Role::Up)?,
                down: record(c, p, r, Role::Down)?,
                activation,
            }),
            Expert::QueryOutput { .. } => Err(Error::Input(format!("pool {p} has no feed-forward experts"))),
        },
        _ => Err(Error::Input(format!("step {:?} has rows without matrices", step.name))),
    };
    let matrices: Vec<Matrices<'_>> = work.runs.iter().map(|run| matrices(run.source)).collect::<Result<_>>()?;

    let groups = groups_of(x.width);
    let wanted = forms(c, ffn, pool.map(|p| &c.bundle.plan().pools[p]))?;
    let inputs = work.inputs(c, input, groups, gathered, wanted);
    let jobs: Vec<Job<'_>> = matrices.iter().zip(&inputs).map(|(m, &x)| m.hidden(x)).collect();
    let down_forms = matrices.iter().fold(Forms::default(), |f, m| f.and(Forms::for_codec(m.down.matrix.layout().codec)));
    hidden.reset(jobs.iter().map(Job::len).sum(), down_forms);
    expand(c, &jobs, hidden.as_mut());

    let mut at = 0;
    let mut runs = Vec::with_capacity(jobs.len());
    for (m, job) in matrices.iter().zip(&jobs) {
        runs.push((m.down, hidden.view(at, job.weights.units(), job.x.rows)));
        at += job.len();
    }
    let bias = step.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    join(c, &work, &Join { runs, scale: step.scale, bias }, x);
    Ok(())
}

/// What the always-on part of each token is multiplied by.
fn shared_weights(c: &Context<'_>, s: &SharedFfn, input: View<'_>, logits: &mut Slab) -> Result<Vec<f32>> {
    let Some(weigh) = &s.weigh else {
        return Ok(vec![1.0; input.rows]);
    };
    logits.reset(input.rows, 1);
    expand(c, &[Job::linear(c.linear(weigh)?, input)], super::batch::BatchMut::floats(&mut logits.data));
    Ok(logits.data.iter().map(|g| 1.0 / (1.0 + (-g[0]).exp())).collect())
}

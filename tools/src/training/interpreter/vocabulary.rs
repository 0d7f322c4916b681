//! What the interpreter cannot compute, refused by name before anything is.

use hotset::plan::{Attention, Part, Routed, Rule, Step, Value, Work};

use crate::failure::{Failure, Result};
use crate::import::{Import, Source};

/// Fails with the first part of the plan that cannot be trained.
pub(super) fn check(import: &Import) -> Result<()> {
    let plan = &import.plan;
    let refuse = |at: &str, what: &str| Err(Failure::new(format!("models with {what} cannot be trained here ({at})")));
    let sources = import.dense.values().map(|d| &d.source).chain(import.experts.iter().flatten().flatten());
    if let Some(source) = sources.into_iter().find(|s| matches!(s, Source::Mxfp4 { .. })) {
        return refuse(source.tensor(), "weights in mxfp4");
    }
    for step in &plan.steps {
        let grouped = |a: &Attention| plan.states[a.state as usize].grouped;
        let named = of_step(step, grouped).or_else(|| step.routed.as_ref().and_then(of_routing));
        if let Some(what) = named {
            return refuse(&step.name, what);
        }
    }
    Ok(())
}

fn of_step(step: &Step, grouped: impl Fn(&Attention) -> bool) -> Option<&'static str> {
    match &step.work {
        Work::Convolution(_) => Some("convolutions"),
        Work::Attention(a) if a.latent.is_some() => Some("latent attention"),
        Work::Attention(a) if a.sinks.is_some() => Some("attention sinks"),
        Work::Attention(a) if grouped(a) => Some("attention experts that have keys and values of their own"),
        Work::Attention(a) if matches!(a.q, Part::Sum { .. }) => Some("attention experts whose projections are added up"),
        Work::Attention(_) | Work::Ffn(_) | Work::Identity => None,
    }
}

fn of_routing(routed: &Routed) -> Option<&'static str> {
    let router = &routed.router;
    match (router.select.rule, router.weigh.by) {
        (Rule::Certain { .. } | Rule::Rank { .. }, _) => Some("routing by certainty or rank"),
        (_, Value::SoftmaxClose { .. }) => Some("routing by SparseMixer"),
        _ => None,
    }
}

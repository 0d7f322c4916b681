//! Load concentration: a model is trained on a task's text so that it uses few experts there, and the others can be pruned.
//!
//! Beside the prediction error, the entropy of what each router thinks of its experts on average is made small: `−Σ p̄ ln p̄`, where `p̄` is
//! the mean over a batch of the softmax over all experts. That is the opposite of balancing, of which the first term is the same with
//! another sign. Single tokens may still choose freely.
//!
//! When it is known how many experts may stay, more is possible: those that add least to the stream are closed, the model learns to do
//! without them, and what routers still think of them is made small instead of the entropy.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{Result, Tensor};
use hotset::plan::Plan;
use hotset::profile::{self, KeepOptions, Kept, Profile, Usage};
use serde_json::json;

use crate::failure::{self, Failure};
use crate::random::Random;
use crate::training::interpreter::{Pass, Routing};
use crate::training::ops::softmax;
use crate::training::{Folder, Keeper, Optimiser, Progress, Settings, Subject, Teaching, WINDOWS, Weights, updated};

/// Tokens of the text by which experts are ranked.
const SAMPLE: usize = 32768;

/// Which weights change.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Routers only: each expert stays what it is.
    Routers,
    /// Routers and experts.
    Experts,
    /// All weights.
    All,
}

/// How to concentrate.
pub(crate) struct Options {
    pub(crate) part: Part,
    /// Weight of concentration beside the prediction error.
    pub(crate) weight: f64,
    /// The share of the experts' bytes to gather on; without it no expert is given up, all are used less evenly.
    pub(crate) keep: Option<f64>,
    pub(crate) settings: Settings,
}

/// Trains the subject and writes it to `target`.
pub(crate) fn concentrate(
    subject: &Subject,
    options: &Options,
    target: &Path,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> failure::Result<()> {
    let folder = Folder::begin(target)?;
    let (routers, experts) = (subject.model.router_tensors(), subject.model.expert_tensors());
    if routers.is_empty() {
        return Err(Failure::new(format!("{} has no routers; there is nothing to concentrate", subject.checkpoint.folder().display())));
    }
    let &Options { part, weight, keep, ref settings } = options;
    let identity = settings.identity(&json!({
        "--train": format!("{part:?}").to_lowercase(), "--weight": weight, "--keep": keep,
        "the checkpoint": subject.fingerprint(), "the texts": subject.texts.fingerprint(),
    }));
    let (text, held) = subject.windows(settings.window)?;
    let keeper = Keeper::new(target, identity, settings.resume)?;
    let (weights, variables) = subject.weights()?.on(&settings.device)?.trainable(|name| match part {
        Part::Routers => routers.contains(name),
        Part::Experts => routers.contains(name) || experts.contains(name),
        Part::All => true,
    })?;
    let model = match keep {
        None => subject.model.closed(&Kept::all(&subject.model.import().plan)),
        Some(keep) => subject.model.closed(&choose(subject, &weights, keep, settings)?),
    };
    let unwanted = |pass: &Pass| match keep {
        None => spread(&pass.routings),
        Some(_) => outside(&pass.routings, &model.import().plan),
    };
    let teaching = Teaching {
        model: &model,
        weights: &|| Ok(weights.clone()),
        beside: &|pass| unwanted(pass)? * weight,
        settings,
        keeper: &keeper,
        stop,
    };
    teaching.run(Optimiser::new(variables, settings.schedule)?, text.shuffled(settings.batch, settings.random()), &held, progress)?;
    folder.finish(
        &subject.checkpoint,
        &settings.config(subject.checkpoint.config()),
        updated(&subject.checkpoint, &weights, settings.full)?,
    )?;
    keeper.remove()
}

/// The experts to gather on: those that add most to the stream for their size, as a profile would rank them.
fn choose(subject: &Subject, weights: &Weights, keep: f64, settings: &Settings) -> failure::Result<Kept> {
    let plan = &subject.model.import().plan;
    let [text, _] = subject.texts.windows(settings.window, plan.context.map(|n| n as usize))?;
    let mut usage = Usage::new(plan);
    for batch in text.shuffled(WINDOWS, Random(settings.seed)).take(SAMPLE.div_ceil(WINDOWS * settings.window)) {
        let batch = batch?;
        usage.tokens += batch.targets.elem_count() as u64;
        for (step, routing) in usage.steps.iter_mut().zip(subject.model.observe(weights, &batch.inputs)?.routings) {
            step.selections.iter_mut().zip(&routing.chosen).for_each(|(sum, n)| *sum += n);
            let added = routing.added.iter().flatten();
            step.saliency.iter_mut().flatten().zip(added).for_each(|(sum, a)| *sum += a);
        }
    }
    let texts = BTreeMap::from([("text".to_owned(), usage)]);
    let profile = Profile { version: profile::VERSION, fingerprint: String::new(), model: String::new(), sizes: None, texts, losses: None };
    let matrices = |pool: usize| plan.pools[pool].expert.matrices(plan.width);
    let size = |pool: usize| matrices(pool).iter().map(|&(_, rows, cols)| u64::from(rows) * u64::from(cols)).sum();
    Ok(profile.keep_in(plan, size, &KeepOptions { keep, ..KeepOptions::default() })?)
}

/// How much routers still think of experts that are not chosen any more: the mean over routers of the sum of `p̄` over these. A scalar.
fn outside(routings: &[Routing], plan: &Plan) -> Result<Tensor> {
    let mass = |routing: &Routing| -> Result<Tensor> {
        let mean = softmax(&routing.logits)?.mean(0)?;
        let mut closed = vec![0f32; mean.dim(0)?];
        let pruned = plan.steps[routing.step].routed.as_ref().and_then(|r| r.router.pruned.as_ref());
        pruned.iter().flat_map(|p| &p.experts).for_each(|&e| closed[e as usize] = 1.0);
        (mean * Tensor::new(closed, routing.logits.device())?)?.sum_all()
    };
    let each = routings.iter().map(mass).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&each, 0)?.mean(0)
}

/// How widely experts are used: the mean over routers of `−Σ p̄ ln p̄` in nats, where `p̄` is the mean over tokens of the softmax over all of the
/// router's experts. A scalar.
fn spread(routings: &[Routing]) -> Result<Tensor> {
    let entropy = |routing: &Routing| -> Result<Tensor> {
        let mean = softmax(&routing.logits)?.mean(0)?;
        // An expert that nobody could choose any less has a logarithm still.
        (&mean * (&mean + 1e-12)?.log()?)?.sum_all()?.neg()
    };
    let each = routings.iter().map(entropy).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&each, 0)?.mean(0)
}

//! Load concentration: a model is trained on a task's text so that it uses few experts there, and the others can be pruned.
//!
//! Beside the prediction error, the entropy of what each router thinks of its experts on average is made small: `−Σ p̄ ln p̄`, where `p̄` is
//! the mean over a batch of the softmax over all experts. That is the opposite of balancing, of which the first term is the same with
//! another sign. Single tokens may still choose freely.
//!
//! When it is known how many experts may stay, more is possible: those that add least to the stream are closed, the model learns to do
//! without them while it is trained, and what routers still think of them is made small instead of the entropy.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{Result, Tensor};
use hotset::plan::Plan;
use hotset::profile::{self, KeepOptions, Kept, Profile, Usage};
use serde_json::{Map, Value, json};

use crate::failure::{self, Failure};
use crate::random::Random;
use crate::training::interpreter::Routing;
use crate::training::ops::softmax;
use crate::training::{
    Batch, Course, Folder, Keeper, Lesson, Measured, Objective, Optimiser, Schedule, Subject, Weights, cross_entropy, measure, updated,
};

/// Windows that are run at once where nothing is trained.
const WINDOWS: usize = 16;
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
    pub(crate) schedule: Schedule,
    /// Windows of a step.
    pub(crate) batch: usize,
    /// Tokens of a window.
    pub(crate) window: usize,
    pub(crate) seed: u64,
    /// Whether weights are written in f32 instead of the type they came in.
    pub(crate) full: bool,
    /// Steps after which the state is kept again.
    pub(crate) every: usize,
    /// Whether to go on from a state.
    pub(crate) resume: bool,
}

/// Told how it goes.
pub(crate) trait Progress {
    /// Step `step` was made; its batch had this prediction error in nats per token.
    fn step(&mut self, step: usize, error: f64);
    /// What became of held-out text after `step` steps.
    fn check(&mut self, step: usize, measured: &Measured) -> failure::Result<()>;
}

/// Trains the subject and writes it to `target`.
pub(crate) fn concentrate(
    subject: &mut Subject,
    options: &Options,
    target: &Path,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> failure::Result<()> {
    let folder = Folder::begin(target)?;
    if subject.model.router_tensors().is_empty() {
        return Err(Failure::new(format!("{} has no routers; there is nothing to concentrate", subject.checkpoint.folder().display())));
    }
    let keeper = Keeper::new(target, options.identity(subject), options.resume)?;
    let [text, held] = subject.texts.windows(options.window, subject.context())?;
    let held = held.in_order(WINDOWS)?;

    if let Some(keep) = options.keep {
        let sample = text.shuffled(WINDOWS, Random(options.seed)).take(SAMPLE.div_ceil(WINDOWS * options.window));
        let kept = choose(subject, keep, sample)?;
        subject.model.close(&kept);
    }
    let subject = &*subject;
    let (weights, variables) = options.trainable(subject)?;
    let mut optimiser = Optimiser::new(variables, options.schedule)?;
    if options.resume {
        keeper.restore(&mut optimiser)?;
    }
    let mut lesson = Concentration { subject, weights, weight: options.weight, keep: options.keep, held: &held, progress };
    if !options.resume {
        lesson.check(0)?;
    }
    let course = Course { steps: options.schedule.steps, keeper: Some((&keeper, options.every)), stop };
    course.run(&mut optimiser, text.shuffled(options.batch, Random(options.seed)), &mut lesson)?;
    let stored = updated(&subject.checkpoint, &lesson.weights, options.full)?;
    folder.finish(&subject.checkpoint, &options.config(subject.checkpoint.config()), stored)?;
    keeper.remove()
}

impl Options {
    /// The subject's weights, and those of them that change.
    fn trainable(&self, subject: &Subject) -> failure::Result<(Weights, BTreeMap<String, candle_core::Var>)> {
        let (routers, experts) = (subject.model.router_tensors(), subject.model.expert_tensors());
        let trained = |name: &str| match self.part {
            Part::Routers => routers.contains(name),
            Part::Experts => routers.contains(name) || experts.contains(name),
            Part::All => true,
        };
        Ok(subject.weights()?.trainable(trained)?)
    }

    /// What must be the same to go on.
    fn identity(&self, subject: &Subject) -> Map<String, Value> {
        let Schedule { steps, rate, .. } = self.schedule;
        let identity = json!({
            "--train": format!("{:?}", self.part).to_lowercase(), "--weight": self.weight, "--keep": self.keep, "--steps": steps, "--lr": rate,
            "--batch": self.batch, "--window": self.window, "--seed": self.seed,
            "the checkpoint": subject.fingerprint(), "the texts": subject.texts.fingerprint(),
        });
        identity.as_object().cloned().unwrap_or_default()
    }

    /// The configuration, which only the weights' type can change.
    fn config(&self, config: &Map<String, Value>) -> Map<String, Value> {
        let mut config = config.clone();
        for key in ["torch_dtype", "dtype"] {
            if let Some(value) = config.get_mut(key).filter(|_| self.full) {
                *value = json!("float32");
            }
        }
        config
    }
}

/// A model on its way to fewer experts.
struct Concentration<'a> {
    subject: &'a Subject,
    weights: Weights,
    weight: f64,
    keep: Option<f64>,
    held: &'a [Batch],
    progress: &'a mut dyn Progress,
}

impl Lesson for Concentration<'_> {
    fn objective(&self, batch: &Batch) -> failure::Result<Objective> {
        let pass = self.subject.model.forward(&self.weights, &batch.inputs)?;
        let error = cross_entropy(&pass.logits, &batch.targets)?;
        let unwanted = match self.keep {
            None => spread(&pass.routings)?,
            Some(_) => outside(&pass.routings, &self.subject.model.import().plan)?,
        };
        let loss = (&error + (unwanted * self.weight)?)?;
        Ok(Objective { error, loss })
    }

    fn made(&mut self, step: usize, error: f64) {
        self.progress.step(step, error);
    }

    fn check(&mut self, step: usize) -> failure::Result<()> {
        let measured = measure(&self.subject.model, &self.weights, self.held)?;
        if !measured.loss.is_finite() {
            let loss = measured.loss;
            return Err(Failure::new(format!("the held-out loss is {loss} after step {step}; a smaller --lr keeps training stable")));
        }
        self.progress.check(step, &measured)
    }
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

/// The experts to gather on: those that add most to the stream for their size, as a profile would rank them.
fn choose(subject: &Subject, keep: f64, sample: impl Iterator<Item = Result<Batch>>) -> failure::Result<Kept> {
    let (model, weights) = (&subject.model, subject.weights()?);
    let plan = &model.import().plan;
    let mut usage = Usage::new(plan);
    for batch in sample {
        let batch = batch?;
        usage.tokens += batch.targets.elem_count() as u64;
        for (step, routing) in usage.steps.iter_mut().zip(model.observe(&weights, &batch.inputs)?.routings) {
            step.selections.iter_mut().zip(&routing.chosen).for_each(|(sum, n)| *sum += n);
            let added = routing.added.iter().flatten();
            step.saliency.iter_mut().flatten().zip(added).for_each(|(sum, a)| *sum += a);
        }
    }
    let texts = BTreeMap::from([("text".to_owned(), usage)]);
    let profile = Profile { version: profile::VERSION, fingerprint: String::new(), model: String::new(), texts, losses: None };
    let size =
        |pool: usize| plan.pools[pool].expert.matrices(plan.width).iter().map(|&(_, rows, cols)| u64::from(rows) * u64::from(cols)).sum();
    Ok(profile.keep_in(plan, size, &KeepOptions { keep, ..KeepOptions::default() })?)
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

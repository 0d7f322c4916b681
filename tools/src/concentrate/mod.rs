//! Load concentration: a model is trained on a task's text so that it uses few experts there, and the others can be pruned.
//!
//! Beside the prediction error, the entropy of what each router thinks of its experts on average is made small: `−Σ p̄ ln p̄`, where `p̄` is
//! the mean over a batch of the softmax over all experts. That is the opposite of balancing, of which the first term is the same with
//! another sign. Single tokens may still choose freely.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{Result, Tensor};
use serde_json::json;

use crate::failure::{self, Failure};
use crate::training::interpreter::Routing;
use crate::training::ops::softmax;
use crate::training::{Folder, Keeper, Optimiser, Progress, Settings, Subject, Teaching, updated};

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
    /// Weight of the entropy beside the prediction error.
    pub(crate) weight: f64,
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
    let &Options { part, weight, ref settings } = options;
    let identity = settings.identity(&json!({
        "--train": format!("{part:?}").to_lowercase(), "--weight": weight,
        "the checkpoint": subject.fingerprint(), "the texts": subject.texts.fingerprint(),
    }));
    let (text, held) = subject.windows(settings.window)?;
    let keeper = Keeper::new(target, identity, settings.resume)?;
    let (weights, variables) = subject.weights()?.trainable(|name| match part {
        Part::Routers => routers.contains(name),
        Part::Experts => routers.contains(name) || experts.contains(name),
        Part::All => true,
    })?;
    let teaching = Teaching {
        model: &subject.model,
        weights: &|| Ok(weights.clone()),
        beside: &|pass| spread(&pass.routings)? * weight,
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

//! Extension: a model learns another domain in new experts, and keeps the old ones as they are.
//!
//! Every pool gets new experts and its router new rows; only these are trained, and the rows are held small so that the new experts do not
//! push themselves forward where the old ones are at home. (ModuleFormer's extension with modules.)

mod growth;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{Result, Tensor, Var};
use serde_json::json;

use crate::failure;
use crate::random::Random;
use crate::training::interpreter::Interpreter;
use crate::training::{Folder, Keeper, Optimiser, Progress, Settings, Stored, Subject, Teaching, Weights, updated};

use growth::{Added, Part, Role, growth};

/// How to extend.
pub(crate) struct Options {
    /// New experts in each pool of feed-forward layers.
    pub(crate) experts: usize,
    /// The same of attention.
    pub(crate) attention_experts: usize,
    /// Weight of the new rows' mean square beside the prediction error.
    pub(crate) weight: f64,
    pub(crate) settings: Settings,
}

/// Trains new experts for the subject and writes it with them to `target`.
pub(crate) fn extend(
    subject: &Subject,
    options: &Options,
    target: &Path,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> failure::Result<()> {
    let folder = Folder::begin(target)?;
    let &Options { experts, attention_experts, weight, ref settings } = options;
    let growth = growth(&subject.checkpoint, subject.model.import(), Added { attention: attention_experts, ffn: experts })?;
    let identity = settings.identity(&json!({
        "--experts": experts, "--attention-experts": attention_experts, "--weight": weight,
        "the checkpoint": subject.fingerprint(), "the texts": subject.texts.fingerprint(),
    }));
    let (text, held) = subject.windows(settings.window)?;
    let keeper = Keeper::new(target, identity, settings.resume)?;
    let old = subject.weights()?.on(&settings.device)?;
    let model = Interpreter::new(growth.import)?;
    let new = begin(&growth.parts, &old, &mut Random(settings.seed))?;
    let rows: Vec<&Var> = new.iter().filter(|(name, _)| growth.parts[*name].role == Role::Row).map(|(_, row)| row).collect();
    let teaching = Teaching {
        model: &model,
        weights: &|| joined(&growth.parts, &old, &new),
        beside: &|_| mean_square(&rows)? * weight,
        settings,
        keeper: &keeper,
        stop,
    };
    teaching.run(Optimiser::new(new.clone(), settings.schedule)?, text.shuffled(settings.batch, settings.random()), &held, progress)?;
    let stored = stored(subject, &growth.parts, &new, settings.full)?;
    folder.finish(&subject.checkpoint, &settings.config(&growth.config), stored)?;
    keeper.remove()
}

/// What is new, before it is trained: random, spread as what it is like; biases are zero.
fn begin(parts: &BTreeMap<String, Part>, old: &Weights, random: &mut Random) -> Result<BTreeMap<String, Var>> {
    let mut new = BTreeMap::new();
    for (name, part) in parts {
        let spread = match part.role {
            Role::Bias => 0.0,
            Role::Expert | Role::Row => old.get(&part.like)?.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt(),
        };
        let values: Vec<f32> = (0..part.shape.iter().product()).map(|_| random.normal() as f32 * spread).collect();
        new.insert(name.clone(), Var::from_tensor(&Tensor::from_vec(values, part.shape.clone(), &old.device())?)?);
    }
    Ok(new)
}

/// The weights of the grown model.
fn joined(parts: &BTreeMap<String, Part>, old: &Weights, new: &BTreeMap<String, Var>) -> Result<Weights> {
    let mut weights = old.clone();
    for (name, values) in new {
        let values = values.as_tensor();
        let whole = if parts[name].appended { Tensor::cat(&[&old.get(name)?, values], 0)? } else { values.clone() };
        weights.insert(name, whole);
    }
    Ok(weights)
}

/// The mean of all values' squares.
fn mean_square(rows: &[&Var]) -> Result<Tensor> {
    let count: usize = rows.iter().map(|r| r.elem_count()).sum();
    let sums = rows.iter().map(|r| r.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&sums, 0)?.sum_all()? / count as f64
}

/// The grown checkpoint: of what was there, every byte as it was.
fn stored<'a>(
    subject: &'a Subject,
    parts: &BTreeMap<String, Part>,
    new: &BTreeMap<String, Var>,
    full: bool,
) -> failure::Result<BTreeMap<String, Stored<'a>>> {
    let old = if full { subject.weights()? } else { Weights::default() };
    let mut stored = updated(&subject.checkpoint, &old, full)?;
    for (name, values) in new {
        let tensor = &subject.checkpoint.tensors()[&parts[name].like];
        let values = Stored::new(values, if full { safetensors::Dtype::F32 } else { tensor.dtype })?;
        let whole = match stored.remove(name) {
            Some(before) => before.followed_by(values),
            None => values,
        };
        stored.insert(name.clone(), whole);
    }
    Ok(stored)
}

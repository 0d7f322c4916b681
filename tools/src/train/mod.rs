//! Training from scratch: a configuration and texts become a checkpoint.
//!
//! Experts are kept in use by a loss of mutual information (ModuleFormer's): routers are to be sure of each token's experts and to use all of
//! them alike over a batch, `Σ p̄ ln p̄ − mean Σ p ln p`, added up over routers.

mod begin;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{Result, Tensor};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::failure;
use crate::import;
use crate::training::interpreter::{Interpreter, Routing};
use crate::training::ops::softmax;
use crate::training::{Folder, Keeper, Optimiser, Progress, Settings, Stored, Teaching, Texts, WINDOWS, mixed};

/// Weight of the balance loss where neither the caller nor the configuration says one.
const BALANCE: f64 = 0.01;

/// A text and how much of what is read comes from it, in any unit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) path: PathBuf,
    pub(crate) share: f64,
}

/// How to train.
pub(crate) struct Options {
    /// Weight of the balance loss beside the prediction error; `None` for the configuration's.
    pub(crate) balance: Option<f64>,
    /// Tokens at the ends of the texts that are kept aside, at most a tenth of each text.
    pub(crate) held_out: usize,
    pub(crate) settings: Settings,
}

/// Trains a model of the configuration in the folder `source` and writes it to `target`.
pub(crate) fn train(
    source: &Path,
    texts: &[Share],
    options: &Options,
    target: &Path,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> failure::Result<()> {
    let folder = Folder::begin(target)?;
    let (blank, settings) = (Checkpoint::blank(source)?, &options.settings);
    let (tensors, import) = import::blank(blank.config())?;
    let model = Interpreter::new(import)?;
    let plan = &model.import().plan;
    let read = |text: &Share| Texts::read(&blank, plan.vocab, std::slice::from_ref(&text.path), options.held_out / texts.len());
    let tokens = texts.iter().map(read).collect::<failure::Result<Vec<_>>>()?;
    let (mut learned, mut held) = (Vec::new(), Vec::new());
    for (tokens, text) in tokens.iter().zip(texts) {
        let [windows, aside] = tokens.windows(settings.window, plan.context.map(|n| n as usize))?;
        learned.push((windows, text.share));
        held.extend(aside.in_order(WINDOWS)?);
    }
    let balance = options.balance.or_else(|| blank.config().get("aux_loss_weight")?.as_f64()).unwrap_or(BALANCE);
    let shares: Vec<Value> = tokens.iter().zip(texts).map(|(t, text)| json!([t.fingerprint(), text.share])).collect();
    let identity = settings.identity(&json!({ "--balance": balance, "the configuration": blank.config(), "the texts": shares }));
    let keeper = Keeper::new(target, identity, settings.resume)?;

    let mut random = settings.random();
    let (weights, variables) = begin::weights(model.import(), &tensors, &mut random)?.on(&settings.device)?.trainable(|_| true)?;
    let teaching = Teaching {
        model: &model,
        weights: &|| Ok(weights.clone()),
        beside: &|pass| imbalance(&pass.routings, &pass.logits)? * balance,
        settings,
        keeper: &keeper,
        stop,
    };
    teaching.run(Optimiser::new(variables, settings.schedule)?, mixed(&learned, settings.batch, random), &held, progress)?;
    let dtype = if settings.full { Dtype::F32 } else { dtype(blank.config()) };
    let stored = weights.0.iter().map(|(name, tensor)| Ok((name.clone(), Stored::new(tensor, dtype)?)));
    folder.finish(&blank, &settings.config(blank.config()), stored.collect::<Result<_>>()?)?;
    keeper.remove()
}

/// The type that the configuration says weights have.
fn dtype(config: &Map<String, Value>) -> Dtype {
    match config.get("torch_dtype").or_else(|| config.get("dtype")).and_then(Value::as_str) {
        Some("float16") => Dtype::F16,
        Some("bfloat16") => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// The sum over routers of `Σ p̄ ln p̄ − mean Σ p ln p` in nats, a scalar: smallest where each token's choice is sure and all experts are used
/// alike. `like`: any tensor of the batch.
fn imbalance(routings: &[Routing], like: &Tensor) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), like.dtype(), like.device())?;
    for routing in routings {
        let p = softmax(&routing.logits)?;
        let mean = p.mean(0)?;
        let even = (&mean * (&mean + 1e-8)?.log()?)?.sum_all()?;
        let sure = (&p * (&p + 1e-12)?.log()?)?.sum(1)?.mean_all()?;
        sum = ((sum + even)? - sure)?;
    }
    Ok(sum)
}

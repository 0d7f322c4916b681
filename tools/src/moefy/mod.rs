//! Dense → Mixture-of-Experts: cuts the feed-forward layers of a LLaMA, and if so wished its attention heads, into experts, gives them
//! routers, and heals what the cut has cost. The result is a checkpoint folder in the format of LLaMA-MoE v2.
//!
//! What the dense model reads of the calibration text is clustered in every layer; cluster centres become router rows. A neuron goes to the
//! expert whose tokens it matters most to. No weight changes until healing: with all experts active, evenly weighed and scaled by their
//! number, the MoE is the dense model.

mod align;
mod attention;
mod cluster;
mod decoder;
mod dense;
mod heal;
mod importance;
mod moe;
mod partition;
mod router;
mod routing;
mod shape;
mod slicing;
mod split;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use safetensors::Dtype;

use crate::checkpoint::Checkpoint;
use crate::failure::{Failure, Result};
use crate::import;
use crate::random::Random;
use crate::training::{Batch, Folder, Stored, Texts, Weights, held_out};

use dense::Dense;
use heal::{Heal, unless};
use importance::measure;
use moe::Moe;
use partition::Partition;
use shape::Shape;
use slicing::{NewLayer, slice};

pub(crate) use heal::{Healing, Progress};

pub(crate) use split::{HeadSplit, Split};

/// Weight of the balance loss beside the prediction error.
const BALANCE: f64 = 0.01;
/// Windows that are run at once where nothing is trained.
const WINDOWS: usize = 16;

/// How routers begin, and with them the partition of neurons.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Start {
    /// Cluster centres; neurons by importance.
    Clustered,
    /// Random; neurons in their order.
    Random,
}

/// How to convert.
pub(crate) struct Options {
    pub(crate) split: Split,
    pub(crate) start: Start,
    /// Tokens of text that clustering, importance and alignment look at.
    pub(crate) calibration: usize,
    /// Tokens of a window.
    pub(crate) window: usize,
    pub(crate) healing: Option<Healing>,
    pub(crate) seed: u64,
}

/// Losses on held-out text, in nats per token.
pub(crate) struct Losses {
    pub(crate) dense: f64,
    /// After the cut, before healing.
    pub(crate) cut: f64,
    pub(crate) healed: Option<f64>,
    /// Tokens that were predicted.
    pub(crate) tokens: usize,
}

/// A dense model and the text to convert it with.
pub(crate) struct Source {
    pub(crate) checkpoint: Checkpoint,
    shape: Shape,
    texts: Texts,
}

impl Source {
    /// Opens a LLaMA checkpoint and reads the texts. The end of each is kept aside: `held_out` tokens of all, at most a tenth of each.
    pub(crate) fn open(path: &Path, texts: &[PathBuf], held_out: usize) -> Result<Source> {
        let checkpoint = Checkpoint::open(path)?;
        let only_llama = |family: &str| match family {
            "llama" => Ok(()),
            other => Err(Failure::new(format!("{} is a {other:?}; moefy converts dense models of type \"llama\"", path.display()))),
        };
        only_llama(checkpoint.config().get("model_type").and_then(serde_json::Value::as_str).unwrap_or("model of no type"))?;
        let (family, llama) = import::import(checkpoint.config(), checkpoint.tensors())?;
        // Some models with experts go by the same type.
        only_llama(family)?;
        let shape = Shape::of(&llama)?;
        let texts = Texts::read(&checkpoint, llama.plan.vocab, texts, held_out)?;
        Ok(Source { checkpoint, shape, texts })
    }

    /// Key heads of the dense model.
    pub(crate) fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    /// Writes the converted model to `folder`.
    pub(crate) fn convert(&self, options: &Options, folder: Folder, progress: &mut dyn Progress, stop: &AtomicBool) -> Result<Losses> {
        let (shape, split) = (&self.shape, &options.split);
        split.check(shape)?;
        let window = options.window;
        let [text, held] = self.texts.windows(window, shape.context)?;
        let held = held.in_order(WINDOWS)?;
        let mut random = Random(options.seed);
        let sample = text.shuffled(WINDOWS, Random(random.next())).take(options.calibration.div_ceil(WINDOWS * window).max(1));
        let sample = sample.collect::<candle_core::Result<Vec<_>>>()?;

        let weights = Weights::read(&self.checkpoint, self.checkpoint.tensors().keys())?;
        let dense = Dense::load(shape, &weights)?;
        let dense_loss = held_out(&dense, &held)?;
        unless(stop)?;
        let mut moe = cut(&dense, &weights, shape, options, &sample, &mut random)?;
        unless(stop)?;
        if split.bias {
            align::align(&dense, shape, split, &mut moe, &sample)?;
        }
        drop((dense, weights));
        let cut_loss = held_out(&Moe::load(shape, split, &moe)?, &held)?;
        progress.held_out(0, cut_loss)?;
        let mut healed = None;
        if let Some(healing) = &options.healing {
            let heal = Heal { shape, split, healing, text: &text, held: &held, stop };
            let (weights, loss) = heal.run(&moe, random, progress)?;
            (moe, healed) = (weights, Some(loss));
        }
        unless(stop)?;
        let stored = moe.0.iter().map(|(name, tensor)| Ok((name.clone(), Stored::new(tensor, Dtype::F32)?)));
        let stored = stored.collect::<candle_core::Result<_>>()?;
        folder.finish(&self.checkpoint, &split.config(self.checkpoint.config(), shape), stored)?;
        Ok(Losses { dense: dense_loss, cut: cut_loss, healed, tokens: held.iter().map(|b| b.targets.elem_count()).sum() })
    }
}

/// The MoE's weights before anything is trained.
fn cut(dense: &Dense, weights: &Weights, shape: &Shape, options: &Options, text: &[Batch], random: &mut Random) -> Result<Weights> {
    let Split { experts, residual, .. } = options.split;
    let (gates, partitions) = match options.start {
        Start::Clustered => {
            let gates = router::clustered(dense, shape, experts, text, random)?;
            let importance = measure(dense, shape, &gates, text)?;
            (gates, importance.iter().map(|i| Partition::by_importance(i, residual)).collect::<Vec<_>>())
        }
        Start::Random => {
            let gates = (0..shape.layers).map(|_| router::random(shape, experts, random));
            (gates.collect::<candle_core::Result<_>>()?, vec![Partition::sequential(shape.hidden, experts, residual); shape.layers])
        }
    };
    let mut layers = Vec::new();
    for (gate, partition) in gates.into_iter().zip(partitions) {
        let attention_gate = options.split.attention.as_ref().map(|heads| router::random(shape, heads.experts, random)).transpose()?;
        layers.push(NewLayer { gate, partition, attention_gate });
    }
    Ok(slice(weights, shape, &options.split, &layers)?)
}

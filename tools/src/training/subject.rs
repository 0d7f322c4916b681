//! What is trained further: a checkpoint, the model it is, and texts.

use std::path::{Path, PathBuf};

use blake3::Hasher;

use super::interpreter::Interpreter;
use super::{Batch, Batches, Texts, WINDOWS, Weights};
use crate::checkpoint::Checkpoint;
use crate::failure::Result;
use crate::import;

/// A checkpoint and the texts it is trained on.
pub(crate) struct Subject {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) model: Interpreter,
    pub(crate) texts: Texts,
}

impl Subject {
    /// Opens a checkpoint and reads the texts. The end of each is kept aside: `held_out` tokens of all, at most a tenth of each.
    pub(crate) fn open(path: &Path, texts: &[PathBuf], held_out: usize) -> Result<Subject> {
        let checkpoint = Checkpoint::open(path)?;
        let model = Interpreter::new(import::import(checkpoint.config(), checkpoint.tensors())?.1)?;
        let texts = Texts::read(&checkpoint, model.import().plan.vocab, texts, held_out)?;
        Ok(Subject { checkpoint, model, texts })
    }

    /// All tensors that the model is made of.
    pub(crate) fn weights(&self) -> Result<Weights> {
        Weights::read(&self.checkpoint, self.model.tensors().iter())
    }

    /// The text to learn from and that to measure with, in windows.
    pub(crate) fn windows(&self, window: usize) -> Result<(Batches<'_>, Vec<Batch>)> {
        let [text, held] = self.texts.windows(window, self.model.import().plan.context.map(|n| n as usize))?;
        Ok((text, held.in_order(WINDOWS)?))
    }

    /// Tells checkpoints apart by their configuration and their weights.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = Hasher::new();
        hasher.update(serde_json::Value::Object(self.checkpoint.config().clone()).to_string().as_bytes());
        for (name, tensor) in self.checkpoint.tensors() {
            hasher.update(name.as_bytes());
            hasher.update(&self.checkpoint.bytes(tensor));
        }
        self.checkpoint.release();
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

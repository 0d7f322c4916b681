//! Texts to train on.

use std::path::PathBuf;

use hotset::text::Tokenizer;

use super::Batches;
use crate::checkpoint::Checkpoint;
use crate::documents;
use crate::failure::{Failure, Result};

/// Tokens of all texts together.
pub(crate) struct Texts {
    pub(crate) bos: Option<u32>,
    /// Tokens to learn from.
    pub(crate) learned: Vec<u32>,
    /// Tokens to measure with, from the end of each text.
    pub(crate) held: Vec<u32>,
}

impl Texts {
    /// Reads text files. The end of each is kept aside: `held_out` tokens of all, at most a tenth of each.
    pub(crate) fn read(checkpoint: &Checkpoint, vocab: u32, paths: &[PathBuf], held_out: usize) -> Result<Texts> {
        let Some(tokenizer) = checkpoint.tokenizer(vocab)? else {
            return Err(Failure::new(format!(
                "{} has no tokenizer.json, without which text cannot be read",
                checkpoint.folder().display()
            )));
        };
        let tokenizer = Tokenizer::new(&tokenizer.json, tokenizer.text, vocab)?;
        let (mut learned, mut held) = (Vec::new(), Vec::new());
        for path in paths {
            let mut tokens = documents::tokens(&tokenizer, &documents::read(path)?)?;
            held.extend(tokens.split_off(tokens.len() - (tokens.len() / 10).min(held_out / paths.len())));
            learned.extend(tokens);
        }
        Ok(Texts { bos: tokenizer.bos(), learned, held })
    }

    /// Both parts in windows. `context`: what the model was trained for, if known.
    pub(crate) fn windows(&self, window: usize, context: Option<usize>) -> Result<[Batches<'_>; 2]> {
        if let Some(context) = context.filter(|c| *c < window) {
            return Err(Failure::new(format!("--window {window} is longer than the {context} tokens the model was trained for")));
        }
        let short = || {
            let message = "the text is too short: its first nine tenths and the rest must each hold a window";
            Failure::new(format!("{message} of {window} tokens, see --window"))
        };
        let windows = |tokens| Batches::new(tokens, self.bos, window).ok_or_else(short);
        Ok([windows(&self.learned)?, windows(&self.held)?])
    }

    /// Tells texts apart.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for tokens in [&self.learned, &self.held] {
            hasher.update(&(tokens.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(tokens));
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

//! How well a session predicts a stream of tokens, and how far its predictions are from those of another. Nothing is printed here.

use std::path::Path;

use hotset::Session;
use hotset::text::Tokenizer;

use crate::documents;
use crate::failure::{Failure, Result};
use crate::score::{Divergence, nll};

/// Logits held at once, in bytes.
const ROWS: usize = 32 << 20;

/// A text as the tokens a model has to predict.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Stem of the file's name.
    pub(crate) name: String,
    /// At least two: the first has nothing before it.
    pub(crate) tokens: Vec<u32>,
    /// Bytes of text that a token stands for, in the mean.
    pub(crate) bytes_per_token: f64,
}

impl Sample {
    /// The text at `path`, cut after `limit` tokens (at least two).
    ///
    /// # Errors
    /// When it cannot be read or has nothing to predict.
    pub(crate) fn read(path: &Path, tokenizer: &Tokenizer, limit: Option<usize>) -> Result<Sample> {
        let text = documents::read(path)?;
        let mut tokens = documents::tokens(tokenizer, &text)?;
        if tokens.len() < 2 {
            return Err(Failure::new(format!("{} has fewer than two tokens, there is nothing to predict", path.display())));
        }
        let bytes_per_token = text.len() as f64 / tokens.len() as f64;
        tokens.truncate(limit.unwrap_or(usize::MAX).max(2));
        let name = documents::name(path);
        Ok(Sample { name, tokens, bytes_per_token })
    }
}

impl Sample {
    /// The last `tokens` tokens of the text at `path`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn end(path: &Path, tokenizer: &Tokenizer, tokens: usize) -> Result<Sample> {
        let mut sample = Sample::read(path, tokenizer, None)?;
        let all = sample.tokens.len();
        sample.tokens.drain(..all - tokens.clamp(2, all));
        Ok(sample)
    }
}

/// What predicting a stream of tokens gave, summed over its predictions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scores {
    /// Predictions.
    pub(crate) tokens: usize,
    /// Negative log-likelihood in nats, of all together.
    pub(crate) nll: f64,
    /// Difference from the other session, if there is one.
    pub(crate) divergence: Divergence,
}

impl Scores {
    /// Mean negative log-likelihood in nats per token.
    pub(crate) fn loss(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Adds those of another stream.
    pub(crate) fn merge(&mut self, other: &Scores) {
        self.tokens += other.tokens;
        self.nll += other.nll;
        self.divergence.merge(&other.divergence);
    }
}

/// Has `session` predict every token of `stream` (two at least) but the first, which nothing precedes; where texts begin with a
/// beginning-of-sequence token, that one too. The stream is read in windows of the context's length, each from the start. `other`, if
/// there is one, reads the same. `done` is told how many tokens more have been predicted.
///
/// # Errors
/// When the context has no room for a prediction, a token is not in the vocabulary, or a device fails.
pub(crate) fn score(session: &mut Session, mut other: Option<&mut Session>, stream: &[u32], done: impl Fn(u64)) -> Result<Scores> {
    let vocab = session.engine().plan().vocab as usize;
    let bos = session.engine().tokenizer().ok().and_then(Tokenizer::bos);
    // What each window reads, and what it has to predict.
    let (read, predict) = if bos.is_some() { (&stream[..stream.len() - 1], stream) } else { (&stream[..stream.len() - 1], &stream[1..]) };
    let window = session.context() - usize::from(bos.is_some());
    if window == 0 {
        return Err(Failure::new("a context of 1 token predicts nothing; choose a longer --context"));
    }
    let rows = (ROWS / 4 / vocab).max(1);
    let mut scores = Scores::default();
    for start in (0..predict.len()).step_by(window) {
        let targets = &predict[start..predict.len().min(start + window)];
        // With a beginning-of-sequence token the window's own first token is predicted, its last is not read.
        let inputs: Vec<u32> =
            bos.into_iter().chain(read[start..read.len().min(start + window)].iter().copied()).take(targets.len()).collect();
        session.reset();
        if let Some(other) = &mut other {
            other.reset();
        }
        for (inputs, targets) in inputs.chunks(rows).zip(targets.chunks(rows)) {
            let logits = session.logits(inputs)?;
            let reference = other.as_mut().map(|o| o.logits(inputs)).transpose()?;
            for (i, (row, &target)) in logits.chunks_exact(vocab).zip(targets).enumerate() {
                scores.nll += nll(row, target);
                if let Some(reference) = &reference {
                    scores.divergence.add(&reference[i * vocab..(i + 1) * vocab], row, target);
                }
            }
            scores.tokens += targets.len();
            done(targets.len() as u64);
        }
    }
    Ok(scores)
}

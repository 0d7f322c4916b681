//! `hotset eval`: how well a bundle predicts a text, and how far it is from another.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use hotset::Session;
use serde::Serialize;

use crate::documents;
use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, SessionArgs};
use crate::progress;
use crate::score::{Divergence, nll};

/// Logits held at once, in bytes.
const ROWS: usize = 32 << 20;

/// Measure how well a bundle predicts a text
///
/// A text is tokenised as it stands. If it has lines `<|endoftext|>`, they separate documents: each is trimmed, tokenised, and followed by
/// the model's end-of-text token, and the tokens of all documents form one stream. The stream is cut into windows of the context's length. Caches are empty at the start of each
/// window, so its first tokens are predicted with little to go by: a longer --context gives lower figures. Every token is predicted
/// exactly once, except the stream's first, which nothing precedes (unless the model wants a beginning-of-sequence token: then each
/// window begins with one).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to measure
    bundle: PathBuf,
    /// UTF-8 text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Also compare every prediction with that of this bundle, which must have the same tokenizer
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Stop after this many tokens
    #[arg(long, value_name = "TOKENS")]
    limit: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    context: SessionArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Predictions scored.
    tokens: usize,
    /// Nats per token.
    nll: f64,
    perplexity: f64,
    /// Bits per byte of the text, comparable between tokenizers.
    bits_per_byte: f64,
    context: usize,
    tokens_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
}

#[derive(Debug, Serialize)]
struct Against {
    /// Negative log-likelihood of the other bundle, nats per token.
    nll: f64,
    /// Mean KL(other ‖ this), nats per token.
    kl: f64,
    /// Share of positions where both find the same token likeliest.
    top1_agreement: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let engine = args.device.open(&args.bundle)?;
    let other = args.against.as_ref().map(|path| args.device.open(path)).transpose()?;
    if let Some(other) = &other
        && (other.plan().vocab != engine.plan().vocab || other.bundle().tokenizer() != engine.bundle().tokenizer())
    {
        return Err(Failure::new("the two bundles have different tokenizers, their predictions cannot be compared"));
    }
    let text = documents::read(&args.text)?;
    let mut stream = documents::tokens(engine.tokenizer()?, &text)?;
    let all = stream.len();
    stream.truncate(args.limit.unwrap_or(all).max(2));
    if stream.len() < 2 {
        return Err(Failure::new(format!("{} has fewer than two tokens, there is nothing to predict", args.text.display())));
    }

    let mut session = args.context.session(&engine)?;
    let mut other = other.map(|o| args.context.session(&o)).transpose()?;
    let started = Instant::now();
    let totals = score(&mut session, other.as_mut(), &stream)?;
    args.device.keep_heat(&engine)?;
    let n = totals.tokens as f64;
    // The part of the text that was scored, by its share of tokens.
    let bytes = text.len() as f64 * n / all as f64;
    let report = Report {
        tokens: totals.tokens,
        nll: totals.nll / n,
        perplexity: (totals.nll / n).exp(),
        bits_per_byte: totals.nll / std::f64::consts::LN_2 / bytes,
        context: session.context(),
        tokens_per_second: n / started.elapsed().as_secs_f64(),
        against: other.map(|_| Against {
            nll: totals.divergence.nll / n,
            kl: totals.divergence.kl / n,
            top1_agreement: totals.divergence.agreements as f64 / n,
        }),
    };
    print(&report, args.json)
}

#[derive(Default)]
struct Totals {
    tokens: usize,
    nll: f64,
    divergence: Divergence,
}

/// Scores every token of `stream`.
fn score(session: &mut Session, mut other: Option<&mut Session>, stream: &[u32]) -> Result<Totals> {
    let vocab = session.engine().plan().vocab as usize;
    let bos = session.engine().tokenizer()?.bos();
    // What each window reads, and what it has to predict.
    let (read, predict) = if bos.is_some() { (&stream[..stream.len() - 1], stream) } else { (&stream[..stream.len() - 1], &stream[1..]) };
    let window = session.context() - usize::from(bos.is_some());
    if window == 0 {
        return Err(Failure::new("a context of 1 token predicts nothing; choose a longer --context"));
    }
    let rows = (ROWS / 4 / vocab).max(1);
    let mut totals = Totals::default();
    let bar = progress::tokens(predict.len());
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
                totals.nll += nll(row, target);
                if let Some(reference) = &reference {
                    totals.divergence.add(&reference[i * vocab..(i + 1) * vocab], row, target);
                }
            }
            totals.tokens += targets.len();
            bar.set_position(totals.tokens as u64);
        }
    }
    bar.finish_and_clear();
    Ok(totals)
}

fn print(r: &Report, json: bool) -> Result<()> {
    let mut out = stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, r)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "{} tokens in windows of {}, {:.1} tokens/s", r.tokens, r.context, r.tokens_per_second)?;
    writeln!(
        out,
        "negative log-likelihood {:.4} nats per token, perplexity {:.3}, {:.4} bits per byte",
        r.nll, r.perplexity, r.bits_per_byte
    )?;
    if let Some(a) = &r.against {
        writeln!(
            out,
            "other {:.4} nats per token, KL(other ‖ this) {:.6}, same likeliest token {:.2} %",
            a.nll,
            a.kl,
            a.top1_agreement * 100.0
        )?;
    }
    Ok(())
}

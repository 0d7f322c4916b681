//! `hotset eval`: how well a bundle predicts texts, and how far it is from another.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::evaluation::{Sample, Scores, score};
use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, OverlayArgs, SessionArgs};
use crate::progress;

/// Measure how well a bundle predicts texts
///
/// A text is tokenised as it stands. If it has lines `<|endoftext|>`, they separate documents: each is trimmed, tokenised, and followed by
/// the model's end-of-text token, and the tokens of all documents form one stream. The stream is cut into windows of the context's length. Caches are empty at the start of each
/// window, so its first tokens are predicted with little to go by: a longer --context gives lower figures. Every token is predicted
/// exactly once, except the stream's first, which nothing precedes (unless the model wants a beginning-of-sequence token: then each
/// window begins with one). Several texts are measured one by one; their mean is that of all tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to measure
    bundle: PathBuf,
    /// UTF-8 text (may be given several times)
    #[arg(long, value_name = "FILE", required = true)]
    text: Vec<PathBuf>,
    /// Also compare every prediction with that of this bundle, which must have the same tokenizer
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Stop each text after this many tokens
    #[arg(long, value_name = "TOKENS")]
    limit: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    context: SessionArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    /// All texts together.
    #[serde(flatten)]
    all: Figures,
    context: usize,
    tokens_per_second: f64,
    /// Each text, in the order given.
    texts: Vec<Text>,
}

#[derive(Debug, Serialize)]
struct Text {
    name: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Predictions scored.
    tokens: usize,
    /// Nats per token.
    nll: f64,
    perplexity: f64,
    /// Bits per byte of the text, comparable between tokenizers.
    bits_per_byte: f64,
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

impl Figures {
    /// `bytes` of text were scored.
    fn new(scores: &Scores, bytes: f64, against: bool) -> Figures {
        let (n, d) = (scores.tokens as f64, &scores.divergence);
        Figures {
            tokens: scores.tokens,
            nll: scores.loss(),
            perplexity: scores.loss().exp(),
            bits_per_byte: scores.nll / std::f64::consts::LN_2 / bytes,
            against: against.then(|| Against { nll: d.nll / n, kl: d.kl / n, top1_agreement: d.agreements as f64 / n }),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let engine = args.device.open_with(&args.bundle, &args.overlay)?;
    let other = args.against.as_ref().map(|path| args.device.open(path)).transpose()?;
    if let Some(other) = &other
        && (other.plan().vocab != engine.plan().vocab || other.bundle().tokenizer() != engine.bundle().tokenizer())
    {
        return Err(Failure::new("the two bundles have different tokenizers, their predictions cannot be compared"));
    }
    let samples = args.text.iter().map(|path| Sample::read(path, engine.tokenizer()?, args.limit)).collect::<Result<Vec<_>>>()?;
    let mut session = args.context.session(&engine)?;
    let mut other = other.map(|o| args.context.session(&o)).transpose()?;
    let against = other.is_some();

    let started = Instant::now();
    let bar = progress::tokens(samples.iter().map(|s| s.tokens.len() - 1).sum());
    let (mut all, mut all_bytes, mut texts) = (Scores::default(), 0.0, Vec::new());
    for sample in samples {
        let scores = score(&mut session, other.as_mut(), &sample.tokens, |tokens| bar.inc(tokens))?;
        let bytes = sample.bytes_per_token * scores.tokens as f64;
        all.merge(&scores);
        all_bytes += bytes;
        texts.push(Text { name: sample.name, figures: Figures::new(&scores, bytes, against) });
    }
    bar.finish_and_clear();
    args.device.keep_heat(&engine)?;
    let report = Report {
        tokens_per_second: all.tokens as f64 / started.elapsed().as_secs_f64(),
        all: Figures::new(&all, all_bytes, against),
        context: session.context(),
        texts,
    };
    print(&report, args.json)
}

fn print(r: &Report, json: bool) -> Result<()> {
    let mut out = stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, r)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "{} tokens in windows of {}, {:.1} tokens/s", r.all.tokens, r.context, r.tokens_per_second)?;
    if r.texts.len() > 1 {
        return table(&mut out, r);
    }
    writeln!(
        out,
        "negative log-likelihood {:.4} nats per token, perplexity {:.3}, {:.4} bits per byte",
        r.all.nll, r.all.perplexity, r.all.bits_per_byte
    )?;
    if let Some(a) = &r.all.against {
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

/// A row for each text and one for all tokens.
fn table(out: &mut impl Write, r: &Report) -> Result<()> {
    let names = r.texts.iter().map(|t| t.name.as_str()).chain(["all"]);
    let width = names.clone().map(|n| n.chars().count()).max().unwrap_or_default();
    write!(out, "{:width$}  {:>8}  {:>10}  {:>10}  {:>9}", "text", "tokens", "nats/token", "perplexity", "bits/byte")?;
    if r.all.against.is_some() {
        write!(out, "  {:>8}  {:>10}  {:>9}  {:>10}", "other", "difference", "KL", "same token")?;
    }
    writeln!(out)?;
    for (name, f) in names.zip(r.texts.iter().map(|t| &t.figures).chain([&r.all])) {
        write!(out, "{name:width$}  {:>8}  {:>10.4}  {:>10.3}  {:>9.4}", f.tokens, f.nll, f.perplexity, f.bits_per_byte)?;
        if let Some(a) = &f.against {
            let (difference, same) = ((f.nll / a.nll - 1.0) * 100.0, a.top1_agreement * 100.0);
            write!(out, "  {:>8.4}  {difference:>+8.2} %  {:>9.6}  {same:>8.2} %", a.nll, a.kl)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

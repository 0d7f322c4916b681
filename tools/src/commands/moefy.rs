//! `hotset moefy`: dense checkpoint → MoE checkpoint.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;

use super::training::positive;
use crate::failure::Result;
use crate::interrupt;
use crate::moefy::{HeadSplit, Healing, Losses, Options, Progress, Source, Split, Start};
use crate::progress;
use crate::training::{Folder, Schedule};

/// Convert a dense LLaMA checkpoint to a Mixture of Experts
///
/// The feed-forward layers are cut into experts by what the model does on the given text, and routers are made from the same text. With
/// --heal, all weights are then trained on it. The result is a checkpoint folder in the format of LLaMA-MoE v2, for `hotset convert`.
/// The last part of the text is kept aside, and the loss on it is printed as work goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with config.json (model_type "llama"), safetensors or PyTorch weights, and tokenizer.json
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The folder to write; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// UTF-8 text like what the model will read; documents may be separated by lines <|endoftext|>
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Routed experts in each layer
    #[arg(long, value_name = "E", default_value_t = 8)]
    experts: usize,
    /// How many of them a token uses
    #[arg(long, value_name = "K", default_value_t = 2)]
    top_k: usize,
    /// Experts' worth of neurons that every token uses besides
    #[arg(long, value_name = "N", default_value_t = 0)]
    residual: usize,
    /// Multiplier of the experts' weights, which sum to one [default: E / K]
    #[arg(long, value_name = "X", value_parser = positive)]
    scale: Option<f64>,
    /// How routers begin: as cluster centres of the text, with neurons where they matter most, or random, with neurons in their order
    #[arg(long, value_enum, default_value_t = Start::Clustered)]
    router: Start,
    /// Give each channel of a layer's output the mean and variance it had in the dense model
    #[arg(long)]
    align: bool,
    /// Cut attention heads into experts, too [default number: one for each key head]
    #[arg(long, value_name = "EXPERTS", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    attention: Option<usize>,
    /// How many of the attention experts a token uses [default: seven eighths]
    #[arg(long, value_name = "K", requires = "attention")]
    attention_top_k: Option<usize>,
    /// Tokens of text that experts are made from
    #[arg(long, value_name = "TOKENS", default_value_t = 16384)]
    calibration: usize,
    /// Same seed, same result
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the losses as JSON at the end, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    healing: HealingArgs,
}

/// Training after the cut.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Healing")]
struct HealingArgs {
    /// Train for this many steps
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    heal: usize,
    /// Highest learning rate; small models bear large ones
    #[arg(long, value_name = "RATE", default_value_t = 2e-3, value_parser = positive)]
    lr: f64,
    /// Windows of text in a step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..))]
    window: u16,
    /// Tokens at the ends of the texts that are kept aside, at most a tenth of each text
    #[arg(long, value_name = "TOKENS", default_value_t = 32768)]
    held_out: usize,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    // An interrupted conversion drops its folder, which removes it.
    let stop = interrupt::flag()?;
    let folder = Folder::begin(&args.output)?;
    let source = Source::open(&args.source, &args.text, args.healing.held_out)?;
    let options = args.options(source.kv_heads());
    let bar = if args.healing.heal > 0 { progress::steps(args.healing.heal) } else { ProgressBar::hidden() };
    let mut report = Report { bar, json: args.json, history: Vec::new() };
    let losses = source.convert(&options, folder, &mut report, &stop)?;
    report.bar.finish_and_clear();
    report.print(&losses, &args, started.elapsed().as_secs_f64())
}

impl Args {
    /// `kv_heads`: of the dense model.
    fn options(&self, kv_heads: usize) -> Options {
        let attention = self.attention.map(|n| {
            let experts = if n == 0 { kv_heads } else { n };
            let top_k = self.attention_top_k.unwrap_or_else(|| (experts - experts.div_ceil(8)).max(1));
            // With even weights each chosen head counts once, as in the dense model.
            HeadSplit { experts, top_k, scale: top_k as f64 }
        });
        let HealingArgs { heal, lr, batch, window, .. } = self.healing;
        let &Args { experts, top_k, residual, align, calibration, seed, .. } = self;
        let scale = self.scale.unwrap_or(experts as f64 / top_k as f64);
        let healing = Healing { schedule: Schedule { steps: heal, rate: lr, decay: 0.0 }, batch: batch.into() };
        Options {
            split: Split { experts, top_k, residual, scale, bias: align, attention },
            start: self.router,
            calibration,
            window: window.into(),
            healing: (heal > 0).then_some(healing),
            seed,
        }
    }
}

/// Says how it goes.
struct Report {
    bar: ProgressBar,
    json: bool,
    history: Vec<Check>,
}

/// A held-out loss, in nats per token.
#[derive(Serialize)]
struct Check {
    step: usize,
    loss: f64,
}

impl Progress for Report {
    fn step(&mut self, step: usize, loss: f64) {
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("{loss:.3}"));
    }

    fn held_out(&mut self, step: usize, loss: f64) -> Result<()> {
        self.history.push(Check { step, loss });
        if self.json {
            return Ok(());
        }
        let when = if step == 0 { "after the cut".to_owned() } else { format!("step {step}") };
        Ok(self.bar.suspend(|| writeln!(stdout(), "{when:<16}{loss:>8.4}"))?)
    }
}

impl Report {
    fn print(&self, losses: &Losses, args: &Args, seconds: f64) -> Result<()> {
        let mut out = stdout().lock();
        let Losses { dense, cut, healed, tokens } = *losses;
        if self.json {
            let json = serde_json::json!({
                "checkpoint": args.output, "held_out_tokens": tokens, "dense": dense, "cut": cut, "healed": healed,
                "history": self.history, "seconds": seconds,
            });
            return Ok(writeln!(out, "{json}")?);
        }
        let path = args.output.display();
        let last = healed.unwrap_or(cut);
        Ok(writeln!(
            out,
            "{path}: {last:.4} nats per token, {:+.4} to the dense model's {dense:.4}, on {tokens} held-out tokens",
            last - dense
        )?)
    }
}

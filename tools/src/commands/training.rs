//! What the commands that train have in common.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use crate::failure::Result;
use crate::progress;
use crate::training::{Measured, Place, Progress, Schedule, Settings};

/// A number above zero.
pub(super) fn positive(s: &str) -> std::result::Result<f64, String> {
    s.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(|| "expected a positive number".into())
}

/// A number that is not below zero.
pub(super) fn not_negative(s: &str) -> std::result::Result<f64, String> {
    s.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0).ok_or_else(|| "expected a number that is not negative".into())
}

/// The type of the written weights.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Dtype {
    /// Each tensor in the type it came in.
    Same,
    /// All in f32.
    F32,
}

/// On what and how long to train.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainingArgs {
    /// UTF-8 text like what the model will read; documents may be separated by lines <|endoftext|>
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(super) text: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) course: CourseArgs,
}

/// How long to train.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub(super) struct CourseArgs {
    /// Train for this many steps
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Highest learning rate; small models bear large ones
    #[arg(long, value_name = "RATE", default_value_t = 5e-4, value_parser = positive)]
    lr: f64,
    /// Windows of text in a step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..))]
    window: u16,
    /// Tokens at the ends of the texts that are kept aside, at most a tenth of each text
    #[arg(long, value_name = "TOKENS", default_value_t = 32768)]
    pub(super) held_out: usize,
    /// Where to compute: cpu, or, in a program that was built with that feature, cuda or metal
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
    /// Same seed, same result on one device
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Training is in f32; what is written is in each tensor's own type, or all in f32
    #[arg(long, value_enum, default_value_t = Dtype::Same)]
    dtype: Dtype,
    /// Keep the state of training in DIR.training after every N steps; it is removed when training is done
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Go on from the state in DIR.training: the result is that of a training that was never interrupted
    #[arg(long)]
    resume: bool,
    /// Print what came of it as JSON at the end, and nothing else
    #[arg(long)]
    json: bool,
}

impl CourseArgs {
    /// # Errors
    /// When the device is not to be had.
    pub(super) fn settings(&self, decay: f64) -> Result<Settings> {
        Ok(Settings {
            schedule: Schedule { steps: self.steps as usize, rate: self.lr, decay },
            batch: self.batch.into(),
            window: self.window.into(),
            seed: self.seed,
            full: self.dtype == Dtype::F32,
            every: self.save_every as usize,
            resume: self.resume,
            device: self.device.device()?,
        })
    }
}

/// Says how it goes.
pub(super) struct Report {
    bar: ProgressBar,
    json: bool,
    history: Vec<Check>,
    /// Held-out tokens that were predicted.
    tokens: usize,
}

/// A look at held-out text.
#[derive(Serialize)]
struct Check {
    step: usize,
    /// In nats per token.
    loss: f64,
    /// Effective number of experts, the mean over routers of attention.
    attention_experts: Option<f64>,
    /// The same of feed-forward layers.
    ffn_experts: Option<f64>,
}

impl Report {
    pub(super) fn new(args: &CourseArgs) -> Report {
        Report { bar: progress::steps(args.steps as usize), json: args.json, history: Vec::new(), tokens: 0 }
    }

    /// Ends the report: where the result is, and what came of it.
    pub(super) fn finish(&self, output: &Path, started: Instant) -> Result<()> {
        self.bar.finish_and_clear();
        let mut out = stdout().lock();
        if self.json {
            let json = json!({
                "checkpoint": output, "held_out_tokens": self.tokens, "history": self.history, "seconds": started.elapsed().as_secs_f64(),
            });
            return Ok(writeln!(out, "{json}")?);
        }
        Ok(writeln!(out, "{}: written; measured on {} held-out tokens", output.display(), self.tokens)?)
    }
}

impl Progress for Report {
    fn step(&mut self, step: usize, error: f64) {
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("{error:.3}"));
    }

    fn check(&mut self, step: usize, measured: &Measured) -> Result<()> {
        let &Measured { loss, attention, ffn, .. } = measured;
        let first = self.history.is_empty();
        self.tokens = measured.tokens;
        self.history.push(Check { step, loss, attention_experts: attention, ffn_experts: ffn });
        if self.json {
            return Ok(());
        }
        let when = if step == 0 { "before".to_owned() } else { format!("step {step}") };
        let columns = [("attention", attention), ("feed-forward", ffn)].map(|(name, n)| Some((name, n?)));
        Ok(self.bar.suspend(|| {
            let mut out = stdout().lock();
            if first {
                write!(out, "{:<12}{:>10}", "held-out", "loss")?;
                columns.iter().flatten().try_for_each(|(name, _)| write!(out, "{name:>15}"))?;
                writeln!(out, "{}", if columns.iter().any(Option::is_some) { " experts in use" } else { "" })?;
            }
            write!(out, "{when:<12}{loss:>10.4}")?;
            columns.iter().flatten().try_for_each(|(_, n)| write!(out, "{n:>15.2}"))?;
            writeln!(out)
        })?)
    }
}

//! `hotset concentrate`: fewer experts for a task.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use super::training::{Dtype, Report, TrainingArgs, interruption, not_negative};
use crate::concentrate::{Options, Part, Progress, concentrate};
use crate::failure::Result;
use crate::training::{Measured, Subject};

/// Train a model to use few experts for the text of a task
///
/// The model learns to predict the text, and its routers to gather on few experts for it (ModuleFormer's load concentration); the experts that
/// the text no longer needs can then be pruned. The result is a checkpoint folder of the same family. The last part of each text is kept
/// aside; the loss on it is printed as work goes on, and the effective number of experts that are chosen for it: the exponential of the
/// entropy of their use.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with config.json, safetensors or PyTorch weights, and tokenizer.json
    #[arg(value_name = "CHECKPOINT")]
    source: PathBuf,
    /// The folder to write; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Which weights change: of routers only, of routers and experts, or all
    #[arg(long, value_enum, default_value_t = Part::All)]
    train: Part,
    /// Gather on the experts that make up this share of the experts' bytes, such as 0.25: those that add most for the text. The others are
    /// not chosen while the model learns. Without it no expert is given up
    #[arg(long, value_name = "R")]
    keep: Option<f64>,
    /// Weight of concentration beside the prediction error; 0 only fine-tunes
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.1, value_parser = not_negative)]
    weight: f64,
    #[command(flatten)]
    training: TrainingArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let stop = interruption()?;
    let training = &args.training;
    let mut subject = Subject::open(&args.source, &training.text, training.held_out)?;
    let options = Options {
        part: args.train,
        weight: args.weight,
        keep: args.keep,
        schedule: training.schedule(0.0),
        batch: training.batch.into(),
        window: training.window.into(),
        seed: training.seed,
        full: training.dtype == Dtype::F32,
        every: training.save_every as usize,
        resume: training.resume,
    };
    let mut report = Report::new(training);
    concentrate(&mut subject, &options, &args.output, &mut report, &stop)?;
    report.finish();
    let mut out = stdout().lock();
    if training.json {
        let json = serde_json::json!({
            "checkpoint": args.output, "history": report.history, "seconds": started.elapsed().as_secs_f64(),
        });
        return Ok(writeln!(out, "{json}")?);
    }
    Ok(writeln!(out, "{}: written after {} steps", args.output.display(), training.steps)?)
}

impl Progress for Report {
    fn step(&mut self, step: usize, error: f64) {
        Report::step(self, step, error);
    }

    fn check(&mut self, step: usize, measured: &Measured) -> Result<()> {
        Report::check(self, step, measured)
    }
}

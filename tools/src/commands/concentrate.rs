//! `hotset concentrate`: fewer experts for a task.

use std::path::PathBuf;
use std::time::Instant;

use super::training::{Report, TrainingArgs, not_negative};
use crate::concentrate::{Options, Part, concentrate};
use crate::failure::Result;
use crate::interrupt;
use crate::training::Subject;

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
    /// Which weights change: of routers only, of routers and experts, or all, which is best by far where it was measured: the others cannot
    /// make up for what is dropped
    #[arg(long, value_enum, default_value_t = Part::All)]
    train: Part,
    /// Gather on the experts that make up this share of the experts' bytes, such as 0.25: those that add most for the text. The others are
    /// not chosen while the model learns. Without it no expert is given up
    #[arg(long, value_name = "R")]
    keep: Option<f64>,
    /// Weight of concentration beside the prediction error; 0 only fine-tunes
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.3, value_parser = not_negative)]
    weight: f64,
    #[command(flatten)]
    training: TrainingArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let stop = interrupt::flag()?;
    let subject = Subject::open(&args.source, &args.training.text, args.training.course.held_out)?;
    let options = Options { part: args.train, weight: args.weight, keep: args.keep, settings: args.training.course.settings(0.0)? };
    let mut report = Report::new(&args.training.course);
    concentrate(&subject, &options, &args.output, &mut report, &stop)?;
    report.finish(&args.output, started)
}

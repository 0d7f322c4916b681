//! `hotset extend`: new experts for a new domain.

use std::path::PathBuf;
use std::time::Instant;

use super::training::{Report, TrainingArgs, not_negative};
use crate::extend::{Options, extend};
use crate::failure::Result;
use crate::interrupt;
use crate::training::Subject;

/// Teach a model a new domain in new experts, and keep all that it has
///
/// Every pool of experts gets new ones and every router new rows for them (ModuleFormer's extension). Only these are trained on the text; every
/// other weight stays as it is, bit for bit. The result is a checkpoint folder of the same family. The last part of each text is kept aside;
/// the loss on it is printed as work goes on, and the effective number of experts that are chosen for it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with config.json, safetensors or PyTorch weights, and tokenizer.json
    #[arg(value_name = "CHECKPOINT")]
    source: PathBuf,
    /// The folder to write; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// New experts in each pool
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    experts: u16,
    /// New experts in each pool of attention, where that has experts [default: as many as elsewhere]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    attention_experts: Option<u16>,
    /// How much routers are held back from preferring new experts: weight of the mean square of their new rows beside the prediction error
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.1, value_parser = not_negative)]
    weight: f64,
    #[command(flatten)]
    training: TrainingArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let stop = interrupt::flag()?;
    let subject = Subject::open(&args.source, &args.training.text, args.training.course.held_out)?;
    let options = Options {
        experts: args.experts.into(),
        attention_experts: args.attention_experts.unwrap_or(args.experts).into(),
        weight: args.weight,
        settings: args.training.course.settings(0.0)?,
    };
    let mut report = Report::new(&args.training.course);
    extend(&subject, &options, &args.output, &mut report, &stop)?;
    report.finish(&args.output, started)
}

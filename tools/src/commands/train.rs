//! `hotset train`: a model from scratch.

use std::path::PathBuf;
use std::time::Instant;

use super::training::{CourseArgs, Report, not_negative};
use crate::failure::Result;
use crate::interrupt;
use crate::train::{Options, Share, train};

/// Weight decay of matrices.
const DECAY: f64 = 0.1;

/// Train a model from scratch
///
/// The folder holds a configuration and a tokenizer, no weights. The result is a checkpoint folder of that family. The last part of each text is
/// kept aside; the loss on it is printed as work goes on, and the effective number of experts that are chosen for it. This is for small models:
/// training is on the CPU.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with config.json and tokenizer.json
    #[arg(value_name = "CONFIG_FOLDER")]
    source: PathBuf,
    /// The folder to write; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// UTF-8 text to learn, and how much of what is read comes from it [default: 1 share]; documents may be separated by lines <|endoftext|>
    #[arg(long, value_name = "FILE[:SHARE]", required = true, num_args = 1.., value_parser = share)]
    text: Vec<Share>,
    /// Weight of the loss that keeps experts evenly used [default: aux_loss_weight of config.json, or 0.01]
    #[arg(long, value_name = "WEIGHT", value_parser = not_negative)]
    balance: Option<f64>,
    #[command(flatten)]
    course: CourseArgs,
}

/// Reads `stories.txt:0.3`.
fn share(text: &str) -> std::result::Result<Share, String> {
    let whole = || Share { path: text.into(), share: 1.0 };
    Ok(text.rsplit_once(':').map_or_else(whole, |(path, share)| match share.parse() {
        Ok(share) if share > 0.0 && f64::is_finite(share) => Share { path: path.into(), share },
        _ => whole(),
    }))
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let stop = interrupt::flag()?;
    let options = Options { balance: args.balance, held_out: args.course.held_out, settings: args.course.settings(DECAY)? };
    let mut report = Report::new(&args.course);
    train(&args.source, &args.text, &options, &args.output, &mut report, &stop)?;
    report.finish(&args.output, started)
}

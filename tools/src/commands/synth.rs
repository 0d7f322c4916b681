//! `hotset synth`: a bundle of a real shape with random weights, to measure speed without a checkpoint.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hotset::codec::Codec;

use crate::failure::Failure;
use crate::progress;
use crate::synth::{self, SHAPES, Shape};

/// Write a bundle of a real shape with random weights, for benchmarks.
///
/// It computes and reads as much per token as the model it is like, but says nothing sensible and has no tokenizer. Its routing has no
/// locality: every token chooses its experts afresh, so hit rates measured with it are the worst case.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shape to take
    #[arg(long, value_name = "SHAPE", value_parser = shapes())]
    like: &'static Shape,
    /// Bundle to write
    #[arg(short, long, value_name = "OUT.hotset")]
    output: PathBuf,
    /// Element format: f32, f16, bf16, q8 or q4
    #[arg(long, default_value = "q4")]
    codec: Codec,
    /// Same seed, same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let bar = progress::bytes();
    let done = synth::write(args.like, args.codec, args.seed, &args.output, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(done?)
}

fn shapes() -> impl TypedValueParser<Value = &'static Shape> {
    let named = |name: String| SHAPES.iter().find(|s| s.name == name).ok_or("no such shape");
    PossibleValuesParser::new(SHAPES.iter().map(|s| s.name)).try_map(named)
}

//! `hotset synth`: a bundle of a real shape with random weights, to measure speed without a checkpoint.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hotset::codec::Codec;

use crate::failure::Failure;
use crate::progress;
use crate::synth::{self, Options, SHAPES, Shape};

/// Write a bundle of a real shape with random weights, for benchmarks.
///
/// It computes and reads as much per token as the model it is like, but says nothing sensible and has no tokenizer. Which experts a token
/// uses does not depend on the token before: nothing repeats, as it does in text, beyond what chance makes of --skew. Without skew, hit
/// rates measured with it are the worst case. `hotset trace --random N` and `hotset replay` show what locality it has.
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
    /// Choose some experts more often than others: the r-th of a layer about r^-S times as often as the first, as far as a token can
    /// choose each once (Zipf's law); 0 chooses all alike
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = skew)]
    skew: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let bar = progress::bytes();
    let done =
        synth::write(args.like, &Options { codec: args.codec, seed: args.seed, skew: args.skew }, &args.output, progress::advance(&bar));
    bar.finish_and_clear();
    Ok(done?)
}

fn shapes() -> impl TypedValueParser<Value = &'static Shape> {
    let named = |name: String| SHAPES.iter().find(|s| s.name == name).ok_or("no such shape");
    PossibleValuesParser::new(SHAPES.iter().map(|s| s.name)).try_map(named)
}

/// A Zipf exponent.
fn skew(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|x| (0.0..=4.0).contains(x)).ok_or_else(|| "a skew is between 0 and 4".into())
}

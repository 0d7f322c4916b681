//! `hotset quantize`: store a bundle's weights in fewer bits.

use std::io::{Write, stdout};
use std::path::PathBuf;

use bytesize::ByteSize;
use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::profile::Activations;
use serde_json::json;

use super::convert;
use crate::evaluation::Sample;
use crate::failure::{Failure, Result};
use crate::options::DeviceArgs;
use crate::packing::Watch;
use crate::profiling::load;
use crate::quantize::report::{Comparison, Row};
use crate::quantize::{Done, Hot, Options, activations, hottest, quantize};
use crate::{import, interrupt, progress};

/// Store a bundle's weights in fewer bits
///
/// Routers stay as they are, embedding and head keep 8 bits where the rest has 4, as with `hotset convert`. What already takes as few bits
/// is copied. With --profile, rounding minimises the error of each expert's products with what it was given in the profiled text
/// (`hotset profile --activations`), instead of the error of its weights. With --hot, the experts which that text uses most keep more bits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle of higher precision, or a checkpoint folder, which is then converted
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Bundle to write
    #[arg(short, long, value_name = "OUT.hotset")]
    output: PathBuf,
    /// How matrices are stored: f16, bf16, q8 (8.5 bits per weight), q4 (4.5) or mxfp4 (4.25)
    #[arg(long, default_value = import::DEFAULT.name())]
    codec: Codec,
    /// Of everything but experts and routers
    #[arg(long, value_name = "CODEC")]
    dense_codec: Option<Codec>,
    /// Profile of SRC, with its activations beside it
    #[arg(long, value_name = "P.json")]
    profile: Option<PathBuf>,
    /// Share of the feed-forward experts, the most used ones, that are stored in --hot-codec, such as 0.25
    #[arg(long, value_name = "R", requires = "profile")]
    hot: Option<f64>,
    /// How these are stored
    #[arg(long, value_name = "CODEC", default_value = "q8", requires = "hot")]
    hot_codec: Codec,
    /// Measure the losses of SRC, of the new bundle and of other codecs on --text
    #[arg(long, requires = "text")]
    report: bool,
    /// UTF-8 text to measure on (may be given several times)
    #[arg(long, value_name = "FILE", requires = "report")]
    text: Vec<PathBuf>,
    /// Measure with this many tokens from the end of each text
    #[arg(long, value_name = "TOKENS", default_value_t = 8192)]
    limit: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    if args.source.is_dir() {
        if args.dense_codec.is_some() || args.profile.is_some() || args.report {
            let to = "convert it with --codec f16 first and quantize that bundle";
            return Err(Failure::new(format!("{} is a checkpoint, which is only converted; {to}", args.source.display())));
        }
        return convert::run(convert::Args::new(args.source, args.output, args.codec, args.json));
    }
    if let Some(share) = args.hot.filter(|share| !(0.0..=1.0).contains(share)) {
        return Err(Failure::new(format!("--hot {share} is no share of the experts; choose 0 to 1")));
    }
    let bundle = Bundle::open(&args.source)?;
    let (activations, hot) = knowledge(&args, &bundle)?;
    let options = Options { codec: args.codec, dense: args.dense_codec, activations: activations.as_ref(), hot: hot.as_ref(), done: None };
    let stop = interrupt::flag()?;
    let bar = progress::bytes();
    let progress = progress::advance(&bar);
    let watch = Watch { stop: &stop, progress: &progress, release: &|| bundle.release() };
    let done = quantize(&bundle, &options, &args.output, watch)?;
    let rows = match args.report {
        false => Vec::new(),
        true => {
            let comparison = Comparison { source: &bundle, device: &args.device, watch };
            let engine = args.device.open(&args.source)?;
            let samples = args.text.iter().map(|path| Sample::end(path, engine.tokenizer()?, args.limit)).collect::<Result<Vec<_>>>()?;
            comparison.rows(&engine, &options, &args.output, &samples)?
        }
    };
    bar.finish_and_clear();
    print(&args, &done, &rows)
}

/// What the profile knows: activations, and which experts are hot.
fn knowledge(args: &Args, bundle: &Bundle) -> Result<(Option<Activations>, Option<Hot>)> {
    let Some(path) = &args.profile else { return Ok((None, None)) };
    let profile = load(path)?;
    profile.check(bundle.manifest())?;
    let hot = args.hot.map(|share| hottest(bundle, &profile, share, args.hot_codec)).transpose()?;
    let beside = activations::beside(path);
    match beside.exists() {
        true => Ok((Some(activations::read(&beside, bundle.manifest())?), hot)),
        false if hot.is_some() => Ok((None, hot)),
        false => Err(Failure::new(format!(
            "{} has no activations beside it, in {}; make it again with `hotset profile --activations`",
            path.display(),
            beside.display()
        ))),
    }
}

/// Names printed at most.
const NAMES: usize = 8;

fn print(args: &Args, done: &Done, rows: &[Row]) -> Result<()> {
    let mut out = stdout().lock();
    let bytes = std::fs::metadata(&args.output).map_err(|e| Failure::new(format!("cannot read {}: {e}", args.output.display())))?.len();
    let (provenance, plain) = (&done.manifest.provenance, &done.plain);
    let history = provenance.history.last().map_or("", String::as_str);
    if args.json {
        let json = json!({
            "bundle": args.output, "bytes": bytes, "history": history, "fingerprint": done.manifest.fingerprint,
            "rounded_plainly": plain, "report": rows,
        });
        return Ok(writeln!(out, "{json}")?);
    }
    writeln!(out, "{}: {}, {history}", args.output.display(), ByteSize(bytes).display().iec())?;
    if !plain.is_empty() {
        let more = if plain.len() > NAMES { format!(" and {} more", plain.len() - NAMES) } else { String::new() };
        let names = plain[..plain.len().min(NAMES)].join(", ");
        writeln!(
            out,
            "rounded without regard to activations, having seen fewer than {} tokens: {names}{more}",
            crate::quantize::LEAST_TOKENS
        )?;
    }
    if !rows.is_empty() {
        writeln!(out, "{:<24} {:>12} {:>10} {:>10} {:>10} {:>10}", "", "size", "nats/token", "difference", "KL", "same token")?;
    }
    for r in rows {
        let (size, difference) = (ByteSize(r.bytes).display().iec().to_string(), (r.nll / rows[0].nll - 1.0) * 100.0);
        let same = r.top1_agreement * 100.0;
        writeln!(out, "{:<24} {size:>12} {:>10.4} {difference:>+8.2} % {:>10.6} {same:>8.2} %", r.name, r.nll, r.kl)?;
    }
    Ok(())
}

//! `hotset prune`: leave out the experts that a kind of text does without.

use std::io::{Write, stdout};
use std::path::PathBuf;

use bytesize::ByteSize;
use hotset::bundle::Manifest;
use hotset::profile::{KeepOptions, Kept};
use serde_json::json;

use crate::evaluation::Sample;
use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, KeepArgs};
use crate::profiling::load;
use crate::prune::{Chosen, Goal, Search};
use crate::{interrupt, progress};

/// Leave out the experts that a kind of text does without
///
/// A profile says what each expert does for the text; every layer keeps as many as it deserves, and no router fewer than it selects. With
/// --text the ways of ranking experts are tried and the best is taken; without --criterion and --semantics all are. The answers are those
/// of `hotset run BUNDLE --profile P --keep R` with the same criterion and semantics, bit for bit.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("goal").required(true))]
pub(crate) struct Args {
    /// Bundle to prune
    bundle: PathBuf,
    /// Profile of that bundle, made by `hotset profile`
    #[arg(long, value_name = "P.json")]
    profile: PathBuf,
    /// Keep this share of the experts' bytes, such as 0.5
    #[arg(long, value_name = "R", group = "goal")]
    keep: Option<f64>,
    /// Keep what fits a bundle of this size, such as 1.5GiB
    #[arg(long, value_name = "BYTES", group = "goal")]
    budget: Option<ByteSize>,
    /// Keep as little as costs at most this many per cent of the loss on --text
    #[arg(long, value_name = "PERCENT", group = "goal", requires = "text")]
    max_loss: Option<f64>,
    /// Bundle to write
    #[arg(short, long, value_name = "OUT.hotset")]
    output: PathBuf,
    /// UTF-8 text to measure losses with (may be given several times)
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// Measure with this many tokens from the end of each text
    #[arg(long, value_name = "TOKENS", default_value_t = 8192)]
    limit: usize,
    /// Tokens of a window when losses are measured [default: what the model was trained for, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: KeepArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let goal = match (args.keep, args.budget, args.max_loss) {
        (Some(keep), ..) => Goal::Keep(keep),
        (_, Some(bytes), _) => Goal::Budget(bytes.as_u64()),
        (.., Some(percent)) if percent >= 0.0 => Goal::MaxLoss(percent / 100.0),
        _ => return Err(Failure::new("--max-loss is a number of per cent, from 0 up")),
    };
    let stop = interrupt::flag()?;
    let profile = load(&args.profile)?;
    let engine = args.device.open(&args.bundle)?;
    profile.check(engine.manifest())?;
    let samples = args.text.iter().map(|path| Sample::end(path, engine.tokenizer()?, args.limit)).collect::<Result<Vec<_>>>()?;
    let tried = |options: &KeepOptions, loss: f64| {
        if !args.json {
            eprintln!("{:.1} % by {}: {loss:.4} nats per token", options.keep * 100.0, describe(options));
        }
    };
    let ways = args.choice.ways(&profile);
    let search = Search { engine: &engine, profile: &profile, samples: &samples, context: args.context, ways, stop: &stop, tried: &tried };
    let chosen = search.run(goal)?;
    let view = engine.bundle().pruned(&chosen.kept)?;
    let [before, after] = [&Kept::all(engine.plan()), &chosen.kept].map(|kept| kept.bytes(engine.bundle()));
    let (share, texts) = (after as f64 / before as f64, profile.texts.keys().cloned().collect::<Vec<_>>().join(", "));
    let history = format!("pruned to {:.1} % of the experts' bytes by {} for {texts}", share * 100.0, describe(&chosen.options));
    let bar = progress::bytes();
    let manifest = view.write(&args.output, &history, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    print(&args, &chosen, (&manifest, share))
}

/// A way of ranking, for people.
fn describe(options: &KeepOptions) -> String {
    let evenly = if options.uniform { ", evenly" } else { "" };
    format!("{}, {}{evenly}", options.criterion, options.semantics)
}

fn print(args: &Args, chosen: &Chosen, (manifest, share): (&Manifest, f64)) -> Result<()> {
    let mut out = stdout().lock();
    let bytes = std::fs::metadata(&args.output).map_err(|e| Failure::new(format!("cannot read {}: {e}", args.output.display())))?.len();
    if args.json {
        let (before, after) = chosen.losses.unzip();
        let pools: Vec<u32> = manifest.plan.pools.iter().map(|p| p.records).collect();
        let json = json!({
            "bundle": args.output, "bytes": bytes, "share": share, "records": pools, "criterion": chosen.options.criterion,
            "semantics": chosen.options.semantics, "uniform": chosen.options.uniform, "loss_before": before, "loss": after,
        });
        return Ok(writeln!(out, "{json}")?);
    }
    writeln!(
        out,
        "{}: {}, {:.1} % of the experts' bytes by {}",
        args.output.display(),
        ByteSize(bytes).display().iec(),
        share * 100.0,
        describe(&chosen.options)
    )?;
    if let Some((before, after)) = chosen.losses {
        writeln!(out, "{after:.4} nats per token, {:+.2} % to the whole model's {before:.4}", (after / before - 1.0) * 100.0)?;
    }
    Ok(())
}

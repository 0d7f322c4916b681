//! `hotset prune`: leave out the experts that a kind of text does without.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;
use hotset::bundle::Manifest;
use hotset::plan::Semantics;
use hotset::profile::{Criterion, KeepOptions, Kept, Profile};
use serde_json::json;

use crate::evaluation::Sample;
use crate::failure::{Failure, Result};
use crate::options::DeviceArgs;
use crate::profiling::{self, load};
use crate::prune::{Chosen, Dropped, Goal, Joining, Search, heirs};
use crate::{interrupt, progress};

/// Leave out the experts that a kind of text does without
///
/// A profile says what each expert does for the text; every layer keeps as many as it deserves, and no router fewer than it selects. With
/// --text the ways of ranking experts are tried and the best is taken; without --criterion and --semantics all are. The answers are those
/// of `hotset run BUNDLE --profile P --keep R` with the same criterion and semantics, bit for bit, unless experts are merged or recombined.
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
    /// contribution: what experts add to the stream; gate-mass: the sum of their weights; frequency: how often they are chosen; saliency:
    /// what they add when they are chosen; merge: by frequency, and dropped experts are merged into the most similar ones; recombine: by
    /// contribution, and neurons of dropped experts join similar ones [default: contribution; with --text, the best of the first four]
    #[arg(long, value_name = "CRITERION", help_heading = "Which experts stay")]
    criterion: Option<Way>,
    /// masked: what the others weigh stays as it is; deleted: they share what the dropped ones weighed [default: masked; with --text, the
    /// better one]
    #[arg(long, value_name = "SEMANTICS", help_heading = "Which experts stay")]
    semantics: Option<Semantics>,
    /// Only what this text of the profile uses counts (may be given several times) [default: all]
    #[arg(long = "for", value_name = "NAME", help_heading = "Which experts stay")]
    texts: Vec<String>,
    /// Keep the same share of every layer
    #[arg(long, help_heading = "Which experts stay")]
    uniform: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// How experts are ranked, and what becomes of those that are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    criterion: Criterion,
    dropped: Dropped,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Way, String> {
        match s {
            "merge" => Ok(Way { criterion: Criterion::Frequency, dropped: Dropped::Merged }),
            "recombine" => Ok(Way { criterion: Criterion::Contribution, dropped: Dropped::Recombined }),
            _ => match s.parse() {
                Ok(criterion) => Ok(Way { criterion, dropped: Dropped::LeftOut }),
                Err(e) => Err(format!("{e}, merge and recombine")),
            },
        }
    }
}

impl Args {
    /// The ways of ranking to try.
    fn ways(&self, profile: &Profile) -> Vec<KeepOptions> {
        let criteria: Vec<Criterion> = match self.criterion {
            Some(way) => vec![way.criterion],
            None => Criterion::ALL.into_iter().filter(|c| profile.has(*c)).collect(),
        };
        let semantics = self.semantics.map_or(Semantics::ALL.to_vec(), |s| vec![s]);
        let way = |criterion| {
            let of = move |&semantics: &Semantics| (criterion, semantics);
            semantics.iter().map(of).collect::<Vec<_>>()
        };
        let options =
            |(criterion, semantics)| KeepOptions { keep: 1.0, criterion, semantics, texts: self.texts.clone(), uniform: self.uniform };
        criteria.into_iter().flat_map(way).map(options).collect()
    }
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
    let ways = args.ways(&profile);
    let dropped = args.criterion.map_or(Dropped::LeftOut, |way| way.dropped);
    if dropped != Dropped::LeftOut && (args.max_loss.is_some() || args.semantics.is_some()) {
        return Err(Failure::new(
            "--max-loss and --semantics are for experts that are left out; with merge and recombine give --keep or --budget",
        ));
    }
    let search = Search { engine: &engine, profile: &profile, samples: &samples, context: args.context, ways, stop: &stop, tried: &tried };
    let mut chosen = search.run(goal)?;
    let bundle = engine.bundle();
    let heirs = if dropped == Dropped::LeftOut { Vec::new() } else { heirs(bundle, &chosen.kept)? };
    let view = match dropped {
        Dropped::LeftOut | Dropped::Recombined => bundle.pruned(&chosen.kept)?,
        Dropped::Merged => bundle.merged(&chosen.kept, &heirs)?,
    };
    let used = profile.used(bundle.plan(), &args.texts);
    let joining: Vec<Joining<'_>> =
        heirs.iter().enumerate().map(|(pool, heirs)| Joining::new(bundle, pool, &chosen.kept, heirs, &used[pool])).collect();
    let [before, after] = [&Kept::all(bundle.plan()), &chosen.kept].map(|kept| kept.bytes(bundle));
    let (share, texts) = (after as f64 / before as f64, profile.texts.keys().cloned().collect::<Vec<_>>().join(", "));
    let joined = match dropped {
        Dropped::LeftOut => "",
        Dropped::Merged => ", the others merged into similar ones",
        Dropped::Recombined => ", the neurons of others joined to similar ones",
    };
    let history = format!("pruned to {:.1} % of the experts' bytes by {} for {texts}{joined}", share * 100.0, describe(&chosen.options));
    let bar = progress::bytes();
    let change = |pool: usize, record: u32, bytes: &mut [u8]| {
        interrupt::check(&stop)?;
        match joining.get(pool) {
            None => Ok(()),
            Some(joining) => joining.join(dropped, record as usize, bytes).map_err(|e| hotset::Error::Input(e.to_string())),
        }
    };
    let manifest = view.write_with(&args.output, &history, change, progress::advance(&bar))?;
    bar.finish_and_clear();
    if let (Some((_, loss)), true) = (&mut chosen.losses, dropped != Dropped::LeftOut) {
        // What was searched with left the dropped experts out.
        *loss = profiling::loss(&args.device.open(&args.output)?, args.context, None, &samples, &|_| ())?;
    }
    print(&args, &chosen, (&manifest, share))
}

/// What became of dropped experts.
fn dropped_name(args: &Args) -> &'static str {
    match args.criterion.map_or(Dropped::LeftOut, |way| way.dropped) {
        Dropped::LeftOut => "left out",
        Dropped::Merged => "merged",
        Dropped::Recombined => "recombined",
    }
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
            "bundle": args.output, "bytes": bytes, "share": share, "records": pools, "criterion": chosen.options.criterion, "dropped": dropped_name(args),
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

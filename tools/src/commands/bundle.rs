//! `hotset bundle`: a model made to fit a device.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bytesize::ByteSize;
use hotset::DEFAULT_CONTEXT;
use hotset::bundle::{Bundle, Manifest};
use hotset::codec::Codec;
use hotset::profile::{KeepOptions, Kept, Losses, Profile};
use serde_json::json;

use crate::checkpoint::{Checkpoint, Tokenizer};
use crate::devices::{Asked, Device};
use crate::failure::{Failure, Result};
use crate::fitting::{CODECS, Candidate, Choice, Prediction, choose, hits, loss, predict, smallest};
use crate::import::{self, Import};
use crate::options::KeepArgs;
use crate::packing::Watch;
use crate::profiling::load;
use crate::quantize::{self, quantize, recode};
use crate::{interrupt, progress};

/// Bytes that the program takes beside the model and the tokenizer.
const PROGRAM: u64 = 2 << 20;

/// Make a model fit a device
///
/// Chooses the finest codec with which all experts stay in the memory that an app may take on the device: q8, or q4. Where that is not
/// enough and a profile has measured losses, experts are dropped, as few as needed and as many as --max-loss allows; what still does not
/// fit is read when it is wanted. With a profile, the experts used most come first in the file. Says what was chosen and why, what it takes,
/// and how fast it should be. Without -o nothing is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Checkpoint folder, or bundle
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The device: a name (a wrong one lists them); `here`, which measures this machine; or figures, such as
    /// ram=1.5GiB,bandwidth=20GB/s,flash=1.2GB/s with vram=12GiB,vram-bandwidth=360GB/s for a GPU of its own
    #[arg(long, value_name = "NAME|FIGURES")]
    device: Asked,
    /// Bundle to write
    #[arg(short, long, value_name = "OUT.hotset")]
    output: Option<PathBuf>,
    /// Profile of SRC, of a checkpoint as `hotset convert --codec f16` makes a bundle of it: which experts are used, and what dropping some
    /// costs
    #[arg(long, value_name = "P.json")]
    profile: Option<PathBuf>,
    /// Dropping experts may cost this many per cent of the loss
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent, requires = "profile")]
    max_loss: f64,
    /// Tokens of a conversation that is to fit [default: what the model was trained for, at most 4096]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: KeepArgs,
}

fn percent(s: &str) -> std::result::Result<f64, String> {
    s.parse().ok().filter(|p| (0.0..=1000.0).contains(p)).ok_or_else(|| "a number of per cent, from 0 up".into())
}

/// What is made to fit.
enum Source {
    Checkpoint { checkpoint: Checkpoint, family: &'static str, import: Box<Import>, tokenizer: Option<Tokenizer> },
    Bundle(Box<Bundle>),
}

/// What was decided.
struct Decision {
    choice: Choice,
    codec: Option<Codec>,
    /// The experts to keep, hot ones first, and their share of all bytes; only with a profile.
    kept: Option<(Kept, f64)>,
    prediction: Prediction,
    /// With all experts and with those that are kept, in nats per token.
    losses: Option<(f64, f64)>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let stop = interrupt::flag()?;
    let profile = args.profile.as_ref().map(|path| load(path)).transpose()?;
    // Dropped at the end, with what is in it.
    let mut between = None;
    let source = match Source::open(&args.source)? {
        checkpoint @ Source::Checkpoint { .. } if profile.is_some() => {
            let beside = args.output.as_ref().and_then(|o| o.parent()).filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = tempfile::Builder::new().prefix(".hotset-").suffix(".part").tempdir_in(beside);
            let folder = folder.map_err(|e| Failure::new(format!("cannot write to {}: {e}", beside.display())))?;
            let whole = checkpoint.convert(&between.insert(folder).path().join("whole.hotset"), &stop)?;
            Source::Bundle(Box::new(whole))
        }
        source => source,
    };
    let device = match (&args.device, &source) {
        (Asked::Known(device), _) => device.clone(),
        (Asked::Here, Source::Bundle(bundle)) => Device::here(bundle, std::thread::available_parallelism().map_or(1, usize::from))?,
        (Asked::Here, Source::Checkpoint { .. }) => {
            return Err(Failure::new("this machine is measured with a bundle; convert the checkpoint first, or give the device's figures"));
        }
    };
    let program = source.program();
    let decision = decide(&args, &source, (&device, program), profile.as_ref())?;
    if !args.json {
        print(&args, &device, &decision, program)?;
    }
    let bytes = match &args.output {
        Some(output) => Some(write(source, &decision, &device, output, &stop)?),
        None => None,
    };
    let mut out = stdout().lock();
    if args.json {
        let Decision { choice, codec, kept, prediction, losses } = &decision;
        let (before, after) = losses.unzip();
        let json = json!({
            "device": device, "codec": codec.map(Codec::name), "keep": kept.as_ref().map_or(1.0, |k| k.1), "why": choice.why,
            "prediction": prediction, "loss_before": before, "loss": after, "bundle": args.output, "bytes": bytes,
        });
        return Ok(writeln!(out, "{json}")?);
    }
    match (bytes, &args.output) {
        (Some(bytes), Some(output)) => Ok(writeln!(out, "written      {}, {}", output.display(), size(bytes))?),
        _ => Ok(()),
    }
}

impl Source {
    fn open(path: &Path) -> Result<Source> {
        if !path.is_dir() {
            return Ok(Source::Bundle(Box::new(Bundle::open(path)?)));
        }
        let checkpoint = Checkpoint::open(path)?;
        let (family, import) = import::import(checkpoint.config(), checkpoint.tensors())?;
        let tokenizer = checkpoint.tokenizer(import.plan.vocab)?;
        Ok(Source::Checkpoint { checkpoint, family, import: Box::new(import), tokenizer })
    }

    /// What the program takes beside the model: code, stacks, and tables of the tokenizer, which are several times as large as its file.
    fn program(&self) -> u64 {
        let text = match self {
            Source::Checkpoint { tokenizer, .. } => tokenizer.as_ref().map_or(0, |t| t.json.len()),
            Source::Bundle(bundle) => bundle.tokenizer().map_or(0, <[u8]>::len),
        };
        PROGRAM + 8 * text as u64
    }

    /// A checkpoint as a bundle in f16, of which profiles are.
    fn convert(self, path: &Path, stop: &AtomicBool) -> Result<Bundle> {
        if let Source::Checkpoint { checkpoint, family, import, tokenizer } = self {
            let bar = progress::bytes();
            let progress = progress::advance(&bar);
            let options = import::Options { target: path, codec: Some(Codec::F16), family, stop, progress: &progress };
            import::write(&checkpoint, *import, tokenizer, &options)?;
            bar.finish_and_clear();
        }
        Ok(Bundle::open(path)?)
    }

    /// The ways to store it, finest first.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        match self {
            Source::Bundle(bundle) => ways(bundle),
            Source::Checkpoint { import, tokenizer, .. } => {
                let published = import::manifest(import, None);
                // Experts that are published in few bits stay as they are.
                let kept = published.plan.pools.iter().any(|p| p.codec == Codec::Mxfp4);
                let codecs = if kept { vec![None] } else { CODECS.map(Some).to_vec() };
                let text = tokenizer.as_ref().map_or(0, |t| t.json.len() as u64);
                codecs.into_iter().map(|codec| candidate(codec, import::manifest(import, codec), text)).collect()
            }
        }
    }
}

/// The ways to store a bundle, finest first: as it is if that takes no more than 8 bits.
fn ways(bundle: &Bundle) -> Result<Vec<Candidate>> {
    let mut out: Vec<Candidate> = Vec::new();
    let mut before = bundle.manifest().clone();
    for codec in CODECS {
        let mut manifest = bundle.manifest().clone();
        recode(&mut manifest, codec, None);
        let same = manifest.plan == before.plan && manifest.tensors == before.tensors;
        match (same, out.is_empty()) {
            (true, true) => out.push(Candidate { codec: None, plan: manifest.plan.clone(), cost: bundle.cost() }),
            (true, false) => {}
            (false, _) => out.push(candidate(Some(codec), manifest.clone(), bundle.tokenizer().map_or(0, |t| t.len() as u64))?),
        }
        before = manifest;
    }
    Ok(out)
}

fn candidate(codec: Option<Codec>, manifest: Manifest, tokenizer: u64) -> Result<Candidate> {
    let cost = manifest.cost(tokenizer).ok_or_else(|| Failure::new("an expert is too large to store"))?;
    Ok(Candidate { codec, plan: manifest.plan, cost })
}

/// `program`: bytes that the program takes of the device's memory.
fn decide(args: &Args, source: &Source, (whole, program): (&Device, u64), profile: Option<&Profile>) -> Result<Decision> {
    let device = &whole.without(program);
    let mut candidates = source.candidates()?;
    let trained = candidates[0].plan.context.map_or(DEFAULT_CONTEXT, |c| c as usize);
    let context = args.context.map_or(trained.min(DEFAULT_CONTEXT), |c| c as usize);
    let options = profile.map_or_else(|| args.choice.options(1.0), |p| args.choice.options_for(p, 1.0));
    // Measured in another way they say nothing.
    let measured = |l: &&Losses| l.criterion == options.criterion && l.semantics == options.semantics;
    let known = profile.and_then(|p| p.losses.as_ref());
    let losses = known.filter(measured);
    if let (Some(known), None) = (known, losses) {
        return Err(Failure::new(format!(
            "the profile's losses were measured by {}, {}; choose experts in that way, or measure again with `hotset profile --losses`",
            known.criterion, known.semantics
        )));
    }
    let choice = choose(&candidates, device.memory(), context, losses, args.max_loss / 100.0);
    let mut chosen = candidates.swap_remove(choice.candidate);
    let mut kept = None;
    match (source, profile) {
        // A checkpoint with a profile has become a bundle.
        (_, None) | (Source::Checkpoint { .. }, Some(_)) => {}
        (Source::Bundle(bundle), Some(profile)) => {
            let (stays, share) = keep(bundle, profile, &KeepOptions { keep: choice.keep, ..options })?;
            let view = bundle.pruned(&stays)?;
            // Of the view, what was chosen of the whole.
            let of_view = ways(&view)?.into_iter().find(|c| c.codec == chosen.codec);
            chosen = of_view.ok_or_else(|| Failure::new("the pruned bundle cannot be stored as the whole one can"))?;
            kept = Some((stays, share));
        }
    }
    let bytes: Vec<u64> = chosen.cost.catalogue.pools().iter().map(|p| p.bytes).collect();
    let uses = profile.map_or_else(|| bytes.iter().map(|_| Vec::new()).collect(), |p| record_uses(p, &chosen));
    let all = chosen.cost.catalogue.bytes();
    let there = |room: u64| match profile {
        Some(_) => hits(&uses, &bytes, room),
        None => (room as f64 / all.max(1) as f64).min(1.0),
    };
    let Some(prediction) = predict(&chosen.plan, &chosen.cost, device, context, there) else {
        let least = smallest(&chosen.plan, &chosen.cost, context) + if whole.vram.is_none() { program } else { 0 };
        return Err(Failure::new(format!(
            "{} has {} for a model, and this one with {context} tokens of context runs in no less than {} ({least} bytes); choose a smaller \
             --context, or another device",
            device.name,
            size(whole.memory()),
            size(least)
        )));
    };
    let share = kept.as_ref().map_or(1.0, |k| k.1);
    let losses = losses.filter(|_| share < 1.0).and_then(|l| Some((l.base, loss(l, share)?)));
    Ok(Decision { codec: chosen.codec, choice, kept, prediction, losses })
}

/// The experts that stay, and the share of bytes that they are: a little more than asked for where routers need it.
fn keep(bundle: &Bundle, profile: &Profile, options: &KeepOptions) -> Result<(Kept, f64)> {
    profile.check(bundle.manifest())?;
    let mut options = options.clone();
    let kept = loop {
        match profile.keep(bundle, &options) {
            Ok(kept) => break kept,
            Err(e) if options.keep >= 1.0 => return Err(e.into()),
            Err(_) => options.keep = (options.keep.max(0.0) + 0.02).min(1.0),
        }
    };
    let share = kept.bytes(bundle) as f64 / Kept::all(bundle.plan()).bytes(bundle).max(1) as f64;
    Ok((kept, share))
}

/// How often each record of each pool is wanted.
fn record_uses(profile: &Profile, chosen: &Candidate) -> Vec<Vec<f64>> {
    let of_experts = profile.used(&chosen.plan, &[]);
    let of_pool = |(pool, uses): (&hotset::plan::Pool, &Vec<f64>)| {
        let mut records = vec![0.0; pool.records as usize];
        for (expert, n) in (0..).zip(uses) {
            if let Some(record) = pool.record_of(expert) {
                records[record as usize] += n;
            }
        }
        records
    };
    chosen.plan.pools.iter().zip(&of_experts).map(of_pool).collect()
}

/// Writes what was decided; returns its size. Nothing is at `output` unless everything succeeds.
fn write(source: Source, decision: &Decision, device: &Device, output: &Path, stop: &AtomicBool) -> Result<u64> {
    let bar = progress::bytes();
    let progress = progress::advance(&bar);
    match source {
        Source::Checkpoint { checkpoint, family, import, tokenizer } => {
            let options = import::Options { target: output, codec: decision.codec, family, stop, progress: &progress };
            import::write(&checkpoint, *import, tokenizer, &options)?;
        }
        Source::Bundle(bundle) => {
            let view = decision.kept.as_ref().map(|(kept, _)| bundle.pruned(kept)).transpose()?;
            let view = view.as_ref().unwrap_or(&bundle);
            let share = decision.kept.as_ref().map(|k| format!(", {:.1} % of the experts' bytes, hot ones first", 100.0 * k.1));
            let history = format!("bundled for {}{}", device.name, share.unwrap_or_default());
            match decision.codec {
                None => drop(view.write_with(output, &history, |_, _, _| interrupt::check(stop), progress)?),
                Some(codec) => {
                    let options = quantize::Options { codec, dense: None, activations: None, hot: None, done: Some(&history) };
                    quantize(view, &options, output, Watch { stop, progress: &progress, release: &|| bundle.release() })?;
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(std::fs::metadata(output).map_err(|e| Failure::new(format!("cannot read {}: {e}", output.display())))?.len())
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn print(args: &Args, device: &Device, decision: &Decision, program: u64) -> Result<()> {
    let Decision { choice, codec, kept, prediction: p, losses } = decision;
    let mut out = stdout().lock();
    let rate = |r: f64| format!("{:.1} GB/s", r / 1e9);
    let gpu = device.vram.map_or_else(String::new, |v| format!("; of a GPU {} at {}", size(v.bytes), rate(v.bandwidth)));
    writeln!(
        out,
        "device       {}: memory {} at {}, storage {}{gpu}",
        device.name,
        size(device.ram),
        rate(device.bandwidth),
        rate(device.flash)
    )?;
    if !device.source.is_empty() {
        writeln!(out, "             {}", device.source)?;
    }
    writeln!(out, "codec        {}: {}", codec.map_or("as it is", Codec::name), choice.why)?;
    match kept {
        Some((_, share)) => writeln!(out, "experts      {:.1} % of their bytes are kept, hot ones first", 100.0 * share)?,
        None => writeln!(out, "experts      all, in the order they have; a --profile would put hot ones first")?,
    }
    writeln!(
        out,
        "memory       {} of {}: dense weights {}, caches {}, working memory {}, {} of {} in experts",
        size(p.dense + p.caches + p.working + p.hot),
        size(p.memory),
        size(p.dense),
        size(p.caches),
        size(p.working),
        size(p.hot),
        size(p.experts)
    )?;
    if device.vram.is_none() {
        writeln!(out, "             a budget of --ram {}; {} are left to the program itself", p.memory, size(program))?;
    }
    writeln!(
        out,
        "decode       {:.1} tokens/s predicted: {:.1} ms for {} of dense weights and {} of experts at {:.0} % of the bandwidth{}",
        p.tokens_per_second,
        p.seconds_computing * 1e3,
        size(p.dense_per_token),
        size(p.routed_per_token),
        p.efficiency * 100.0,
        if p.hit_rate < 1.0 {
            format!(", {:.1} ms for the {:.0} % of experts that are not there", p.seconds_waiting * 1e3, 100.0 * (1.0 - p.hit_rate))
        } else {
            String::new()
        }
    )?;
    if p.hit_rate < 1.0 && args.profile.is_none() {
        writeln!(out, "             as if all experts were used alike, the worst case; a --profile says more")?;
    }
    if let Some((before, after)) = losses {
        writeln!(
            out,
            "loss         {after:.4} nats per token, {:+.2} % to {before:.4}, by the profile; fewer bits not counted",
            (after / before - 1.0) * 100.0
        )?;
    }
    Ok(())
}

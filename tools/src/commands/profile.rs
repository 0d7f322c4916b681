//! `hotset profile`: which experts texts use.

use std::io::{Write, stdout};
use std::path::PathBuf;

use hotset::profile::{Profile, Usage};
use serde_json::json;

use crate::evaluation::Sample;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::options::{DeviceArgs, KeepArgs, SessionArgs};
use crate::profiling::{self, Collector, RATIOS, load, save};
use crate::quantize::activations;
use crate::{progress, report};

/// Count which experts texts use, and report it
///
/// With --text: the texts (one for each domain, of any length) stream through the bundle, and what each expert of each layer does for them
/// is counted: how many tokens choose it, with what weight, how much it adds to the stream, what is chosen with it in the next layer, and
/// how many experts 8 and 64 tokens in a row need. With --losses the loss is measured, too, of the bundle with fewer and fewer experts.
/// Ctrl-C loses nothing: --resume goes on (not with --activations).
///
/// With --merge: profiles of one bundle are added up. With --html: a page to look at, of one profile or of two that are compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to profile; with --merge, or with --html and no text, profiles
    #[arg(value_name = "BUNDLE|PROFILE", required = true)]
    inputs: Vec<PathBuf>,
    /// UTF-8 text; lines `<|endoftext|>` separate documents (may be given several times, once for each domain)
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    text: Vec<PathBuf>,
    /// Profile to write
    #[arg(short, long, value_name = "P.json")]
    output: Option<PathBuf>,
    /// Add up profiles
    #[arg(long, requires = "output")]
    merge: bool,
    /// Page to write: one file that needs no others
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Stop each text after this many tokens
    #[arg(long, value_name = "TOKENS")]
    limit: Option<u64>,
    /// Go on where an interrupted run with the same arguments stopped
    #[arg(long, requires = "text")]
    resume: bool,
    /// Also measure how large the values are that experts are given, for `hotset quantize`: into P.safetensors
    #[arg(long, requires = "text", conflicts_with = "resume")]
    activations: bool,
    /// Measure the loss with 90 %, 80 %, … 20 % of the experts, on this many tokens from the end of each text
    #[arg(long, value_name = "TOKENS", num_args = 0..=1, default_missing_value = "4096", requires = "text")]
    losses: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: KeepArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    context: SessionArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    if !args.text.is_empty() {
        return collect(&args);
    }
    let mut profiles = args.inputs.iter().map(|p| load(p)).collect::<Result<Vec<_>>>()?;
    if args.merge {
        let mut others = profiles.split_off(1);
        others.iter_mut().try_for_each(|other| profiles[0].merge(other))?;
    }
    match (&args.html, &args.output) {
        (_, Some(_)) if !args.merge => return Err(Failure::new("-o is for a profile that is made, of --text or with --merge")),
        (None, None) => return Err(Failure::new("give --text to profile a bundle, --merge to add up profiles, or --html to look at one")),
        (Some(_), _) if profiles.len() > 2 => return Err(Failure::new("a page compares two profiles at most; --merge adds up more")),
        _ => {}
    }
    if let Some(output) = args.output.as_ref().filter(|_| args.merge) {
        save(&profiles[0], output)?;
    }
    page(&args, &profiles[0], profiles.get(1))?;
    print(&args, &profiles[0])
}

fn collect(args: &Args) -> Result<()> {
    let (Some(output), [bundle]) = (&args.output, &args.inputs[..]) else {
        return Err(Failure::new("profiling takes one bundle, and -o P.json for the profile to write"));
    };
    let texts = profiling::texts(&args.text)?;
    let stop = interrupt::flag()?;
    let engine = args.device.open_on_cpu(bundle)?;
    let mut session = args.context.session(&engine)?;
    let bar = progress::bytes();
    bar.set_length(texts.iter().map(|t| t.bytes).sum());
    let collector = Collector::new(&session, &texts, args.limit, output, args.resume)?;
    if args.activations {
        session.record_activations()?;
    }
    let mut profile = collector.run(&mut session, &stop, |bytes| bar.set_position(bytes))?;
    bar.finish_and_clear();
    save(&profile, output)?;
    // Nothing is left to resume.
    profiling::forget(output);
    if let Some(activations) = session.take_activations() {
        activations::write(&activations::beside(output), engine.plan(), &activations)?;
    }
    if let Some(tokens) = args.losses {
        let samples = args.text.iter().map(|path| Sample::end(path, engine.tokenizer()?, tokens)).collect::<Result<Vec<_>>>()?;
        let bar = progress::tokens(samples.iter().map(|s| s.tokens.len() - 1).sum::<usize>() * (1 + RATIOS.len()));
        let measured = (&profile, &args.choice.options_for(&profile, 1.0));
        let losses = profiling::measure(&engine, Some(session.context()), measured, &samples, (&stop, &|n| bar.inc(n)))?;
        bar.finish_and_clear();
        profile.losses = Some(losses);
        save(&profile, output)?;
    }
    page(args, &profile, None)?;
    print(args, &profile)
}

fn page(args: &Args, profile: &Profile, other: Option<&Profile>) -> Result<()> {
    let Some(path) = &args.html else { return Ok(()) };
    Ok(crate::saving::Saving::begin(path)?.finish(report::html(profile, other)?.as_bytes())?)
}

/// What there is to see at a glance.
fn print(args: &Args, profile: &Profile) -> Result<()> {
    let mut out = stdout().lock();
    let effective = |usage: &Usage| usage.steps.iter().map(hotset::profile::StepUse::effective_experts).collect::<Vec<_>>();
    if args.json {
        let text =
            |(name, usage): (&String, &Usage)| (name.clone(), json!({ "tokens": usage.tokens, "effective_experts": effective(usage) }));
        let texts: serde_json::Map<_, _> = profile.texts.iter().map(text).collect();
        let json = json!({ "model": profile.model, "fingerprint": profile.fingerprint, "texts": texts, "losses": profile.losses });
        return Ok(writeln!(out, "{json}")?);
    }
    for (name, usage) in &profile.texts {
        let effective = effective(usage);
        let mean = effective.iter().sum::<f64>() / effective.len().max(1) as f64;
        let all = usage.steps.iter().map(|s| s.selections.len()).sum::<usize>() as f64 / effective.len().max(1) as f64;
        writeln!(out, "{name}: {} tokens, used as if by {mean:.1} of {all:.1} experts in a layer", usage.tokens)?;
    }
    for (i, (a, one)) in profile.texts.iter().enumerate() {
        for (b, other) in profile.texts.iter().skip(i + 1) {
            writeln!(out, "{a} and {b}: {:.0} % of the more used half in common", 100.0 * one.overlap(other))?;
        }
    }
    if let Some(losses) = &profile.losses {
        writeln!(out, "all experts: {:.4} nats per token on {} tokens", losses.base, losses.tokens)?;
        for r in &losses.ratios {
            writeln!(out, "{:.0} %: {:.4}, {:+.2} %", r.keep * 100.0, r.loss, (r.loss / losses.base - 1.0) * 100.0)?;
        }
    }
    Ok(())
}

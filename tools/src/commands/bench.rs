//! `hotset bench`: how fast a bundle runs here, and how near that is to what the memory allows.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use hotset::model::Paging;
use hotset::{Engine, GenerateOptions, SessionOptions, Statistics};
use serde::Serialize;

use crate::documents;
use crate::failure::{Failure, Result};
use crate::measure::{memory_bandwidth, peak_memory};
use crate::options::{DeviceArgs, OverlayArgs, bundle_or_demo};

/// Measure speed and memory
///
/// Reads a prompt and decodes after it, several times after one round of warming up; medians are reported. All tokens are random: with
/// experts under a budget, a stream without any repetition. Peak memory is that of the whole process, pages of the mapped bundle included.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to measure [default: the demo bundle]
    bundle: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    prompt_tokens: u32,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    generate_tokens: u32,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
}

/// What was measured. Seconds, bytes, and tokens or bytes per second.
#[derive(Debug, Serialize)]
struct Report {
    bundle: PathBuf,
    bundle_bytes: u64,
    device: String,
    kind: &'static str,
    threads: usize,
    prompt_tokens: u32,
    generate_tokens: u32,
    open_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    time_to_first_token_seconds: f64,
    peak_memory_bytes: Option<u64>,
    device_bytes: u64,
    cache_bytes_per_token: u64,
    weight_bytes_per_token: u64,
    dispatches_per_token: u32,
    dispatches_per_step: Vec<u32>,
    /// On the CPU without a budget only: what the same threads read from memory, and the share of it that decoding reads in weights.
    memory_bytes_per_second: Option<f64>,
    memory_share: Option<f64>,
    /// Under a budget: how experts came and went while decoding, all rounds together.
    paging: Option<Decoding>,
    rounds: Vec<Round>,
}

/// What decoding cost in experts that were not there.
#[derive(Debug, Serialize)]
struct Decoding {
    /// How things stood at the end; totals since the bundle was opened.
    state: Paging,
    hit_rate: Option<f64>,
    bytes_read_per_token: f64,
    stall_seconds_per_token: f64,
    /// Share of the time in which nothing was computed because an expert was missing.
    stall_share: f64,
    synchronisations_per_token: f64,
    submissions_per_token: f64,
    bytes_returned_per_token: f64,
}

#[derive(Debug, Serialize)]
struct Round {
    /// Before and after decoding.
    #[serde(skip)]
    paging: Option<(Paging, Paging)>,
    #[serde(skip)]
    decode_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    time_to_first_token_seconds: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let bundle = bundle_or_demo(args.bundle)?;
    let started = Instant::now();
    let engine = args.device.open_with(&bundle, &args.overlay)?;
    let open_seconds = started.elapsed().as_secs_f64();

    round(&engine, args.prompt_tokens, args.generate_tokens.min(16))?;
    let rounds = (0..args.repeat).map(|_| round(&engine, args.prompt_tokens, args.generate_tokens)).collect::<Result<Vec<Round>>>()?;
    // Before the bandwidth is measured, which takes memory itself.
    let peak_memory_bytes = peak_memory();

    args.device.keep_heat(&engine)?;
    let model = engine.report();
    let decode = median(&rounds, |r| r.decode_tokens_per_second);
    // Under a budget the file is the bottleneck, and the measurement's own memory could be what the system kills us for.
    let bandwidth = (model.kind == "cpu" && model.paging.is_none()).then(|| memory_bandwidth(args.device.threads()));
    let report = Report {
        bundle_bytes: engine.bundle().len(),
        bundle,
        device: model.device,
        kind: model.kind,
        threads: args.device.threads(),
        prompt_tokens: args.prompt_tokens,
        generate_tokens: args.generate_tokens,
        open_seconds,
        prefill_tokens_per_second: median(&rounds, |r| r.prefill_tokens_per_second),
        decode_tokens_per_second: decode,
        time_to_first_token_seconds: median(&rounds, |r| r.time_to_first_token_seconds),
        peak_memory_bytes,
        device_bytes: model.device_bytes,
        cache_bytes_per_token: model.cache_bytes_per_token,
        weight_bytes_per_token: model.weight_bytes_per_token,
        dispatches_per_token: model.dispatches_per_token,
        dispatches_per_step: model.dispatches_per_step,
        memory_bytes_per_second: bandwidth,
        paging: decoding(&rounds, args.generate_tokens),
        memory_share: bandwidth.map(|b| decode * model.weight_bytes_per_token as f64 / b),
        rounds,
    };
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(())
}

/// Reads a prompt and decodes after it, in a session of its own.
///
/// The tokens are scattered over the vocabulary: what a model of random weights would say by itself soon goes in circles, and would have
/// all its experts at hand.
fn round(engine: &Engine, prompt: u32, generate: u32) -> Result<Round> {
    let context = (prompt + generate) as usize;
    let mut session = engine.session(&SessionOptions { context: Some(context), ..SessionOptions::default() })?;
    let mut tokens = documents::random(engine.plan().vocab);
    session.append(&tokens.by_ref().take(prompt as usize).collect::<Vec<_>>())?;
    let one = GenerateOptions { max_tokens: 1, ignore_eos: true, ..GenerateOptions::default() };
    let first: Statistics = session.generate(&one, |_| {})?.statistics;
    let before = engine.report().paging;
    let started = Instant::now();
    for token in tokens.take(generate as usize - 1) {
        // In place of the token it chose.
        session.truncate(session.tokens().len() - 1);
        session.append(&[token])?;
        session.generate(&one, |_| {})?;
    }
    let decode_seconds = started.elapsed().as_secs_f64();
    let unmeasurable = || Failure::new("this is too fast for the clock; generate more tokens with -n");
    Ok(Round {
        paging: before.zip(engine.report().paging),
        decode_seconds,
        prefill_tokens_per_second: first.prefill_rate().ok_or_else(unmeasurable)?,
        decode_tokens_per_second: f64::from(generate - 1) / decode_seconds,
        time_to_first_token_seconds: first.first_token.unwrap_or_default().as_secs_f64(),
    })
}

/// What all rounds' decoding cost together.
fn decoding(rounds: &[Round], generate: u32) -> Option<Decoding> {
    let tokens = (rounds.len() * (generate as usize - 1)) as f64;
    let pairs: Vec<&(Paging, Paging)> = rounds.iter().filter_map(|r| r.paging.as_ref()).collect();
    let sum = |of: &dyn Fn(&Paging) -> f64| pairs.iter().map(|(before, after)| of(after) - of(before)).sum::<f64>();
    let (hits, misses) = (sum(&|p| p.counts.hits as f64), sum(&|p| p.counts.misses as f64));
    let stall = sum(&|p| p.stall.as_secs_f64());
    Some(Decoding {
        state: pairs.last()?.1.clone(),
        hit_rate: (hits + misses > 0.0).then(|| hits / (hits + misses)),
        bytes_read_per_token: sum(&|p| p.bytes_read as f64) / tokens,
        stall_seconds_per_token: stall / tokens,
        stall_share: stall / rounds.iter().map(|r| r.decode_seconds).sum::<f64>(),
        synchronisations_per_token: sum(&|p| p.synchronisations as f64) / tokens,
        submissions_per_token: sum(&|p| p.submissions as f64) / tokens,
        bytes_returned_per_token: sum(&|p| p.bytes_returned as f64) / tokens,
    })
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}

fn print(out: &mut impl Write, r: &Report) -> Result<()> {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
    writeln!(out, "{}  ({})", r.bundle.display(), mib(r.bundle_bytes))?;
    writeln!(out, "device            {}", r.device)?;
    writeln!(out, "open              {:.3} s", r.open_seconds)?;
    writeln!(out, "prefill           {:.1} tokens/s  ({} tokens)", r.prefill_tokens_per_second, r.prompt_tokens)?;
    writeln!(out, "first token       {:.3} s", r.time_to_first_token_seconds)?;
    writeln!(out, "decode            {:.1} tokens/s  ({} tokens)", r.decode_tokens_per_second, r.generate_tokens)?;
    if let Some(bytes) = r.peak_memory_bytes {
        writeln!(out, "peak memory       {}", mib(bytes))?;
    }
    writeln!(out, "weights per token {}", mib(r.weight_bytes_per_token))?;
    if let (Some(bandwidth), Some(share)) = (r.memory_bytes_per_second, r.memory_share) {
        writeln!(out, "memory bandwidth  {:.1} GB/s, {:.0} % of it used by decoding", bandwidth / 1e9, share * 100.0)?;
    }
    if let Some(d) = &r.paging {
        let Paging { budget, fixed, slots, experts, .. } = d.state;
        writeln!(out, "budget            {}: {} fixed, {} for {} of experts", mib(budget), mib(fixed), mib(slots), mib(experts))?;
        let hits = d.hit_rate.map_or("-".into(), |h| format!("{:.1} %", h * 100.0));
        let (read, stall) = (mib(d.bytes_read_per_token as u64), d.stall_seconds_per_token * 1e3);
        writeln!(
            out,
            "decode paging     {hits} hits, {read} read and {stall:.1} ms stalled per token ({:.0} % of the time)",
            d.stall_share * 100.0
        )?;
        if d.synchronisations_per_token > 0.0 {
            let (syncs, submissions, returned) = (d.synchronisations_per_token, d.submissions_per_token, d.bytes_returned_per_token);
            writeln!(out, "per token         {syncs:.2} synchronisations, {submissions:.2} submissions, {returned:.0} bytes returned")?;
        }
    }
    if r.dispatches_per_token > 0 {
        writeln!(out, "dispatches        {} per token; by step {:?}", r.dispatches_per_token, r.dispatches_per_step)?;
    }
    Ok(())
}

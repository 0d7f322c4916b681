//! `hotset bench`: how fast a bundle runs here, and how near that is to what the memory allows.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use hotset::{Engine, GenerateOptions, SessionOptions, Statistics};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::measure::{memory_bandwidth, peak_memory};
use crate::options::{DeviceArgs, bundle_or_demo};

/// Measure speed and memory
///
/// Reads a prompt of random tokens and generates greedily, several times after one round of warming up; medians are reported. Peak
/// memory is that of the whole process, pages of the mapped bundle included.
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
    /// On the CPU only: what the same threads read from memory, and the share of it that decoding reads in weights.
    memory_bytes_per_second: Option<f64>,
    memory_share: Option<f64>,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    time_to_first_token_seconds: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let bundle = bundle_or_demo(args.bundle)?;
    let started = Instant::now();
    let engine = args.device.open(&bundle)?;
    let open_seconds = started.elapsed().as_secs_f64();

    round(&engine, args.prompt_tokens, args.generate_tokens.min(16))?;
    let rounds = (0..args.repeat).map(|_| round(&engine, args.prompt_tokens, args.generate_tokens)).collect::<Result<Vec<Round>>>()?;
    // Before the bandwidth is measured, which takes memory itself.
    let peak_memory_bytes = peak_memory();

    let model = engine.report();
    let decode = median(&rounds, |r| r.decode_tokens_per_second);
    let bandwidth = (model.kind == "cpu").then(|| memory_bandwidth(args.device.threads()));
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

/// Reads a prompt and generates after it, in a session of its own.
fn round(engine: &Engine, prompt: u32, generate: u32) -> Result<Round> {
    let context = (prompt + generate) as usize;
    let mut session = engine.session(&SessionOptions { context: Some(context), ..SessionOptions::default() })?;
    // A multiplicative generator is random enough to visit the vocabulary evenly, and the same in every round.
    let vocab = u64::from(engine.plan().vocab);
    let tokens: Vec<u32> = (1..=u64::from(prompt)).map(|i| ((i * 0x9e37_79b9 % 0xffff_fffb) % vocab) as u32).collect();
    session.append(&tokens)?;
    let options = GenerateOptions { max_tokens: generate as usize, ignore_eos: true, ..GenerateOptions::default() };
    let s: Statistics = session.generate(&options, |_| {})?.statistics;
    let unmeasurable = || Failure::new("this is too fast for the clock; generate more tokens with -n");
    Ok(Round {
        prefill_tokens_per_second: s.prefill_rate().ok_or_else(unmeasurable)?,
        decode_tokens_per_second: s.decode_rate().ok_or_else(unmeasurable)?,
        time_to_first_token_seconds: s.first_token.unwrap_or_default().as_secs_f64(),
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
    if r.dispatches_per_token > 0 {
        writeln!(out, "dispatches        {} per token; by step {:?}", r.dispatches_per_token, r.dispatches_per_step)?;
    }
    Ok(())
}

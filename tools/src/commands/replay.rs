//! `hotset replay`: what a recorded use of experts would make of memories of different sizes.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use bytesize::ByteSize;
use hotset::bundle::Bundle;
use hotset::experts::{Catalogue, Layout, Pass, Policy, Replay, Sharing, Trace, optimum, replay};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::documents;
use crate::failure::{Failure, Result};

/// Say how many experts a memory would have held, from a trace
///
/// Replays what `hotset trace` recorded through caches of several sizes, empty at the start, and prints for each policy the share of
/// wanted experts that were there and the bytes that had to be read. Beside it stands the best that was possible, of someone
/// who knows the future (Bélády), and how many points each policy is below. LRU is always beside; where it would share too
/// little memory between layers to hit anything, each layer has memory of its own, as when running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace
    #[arg(value_name = "T.json")]
    trace: PathBuf,
    /// The bundle it was recorded with; only its header is read
    bundle: PathBuf,
    /// Sizes, as shares of all experts' bytes
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0.25,0.5,0.75", value_parser = share)]
    cached: Vec<f64>,
    /// Sizes in bytes, such as 1.5GiB, of experts alone, instead of shares
    #[arg(long, value_name = "BYTES", value_delimiter = ',', conflicts_with = "cached")]
    ram: Vec<ByteSize>,
    /// Policies: next-use, lru, lfu [default: all]
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<Policy>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of a trace. Hit rates and shares are between 0 and 1, sizes in bytes.
#[derive(Serialize)]
struct Report {
    passes: usize,
    /// Bytes of all experts.
    expert_bytes: u64,
    /// Bytes that an average pass uses.
    bytes_per_pass: f64,
    caches: Vec<Cache>,
}

#[derive(Serialize)]
struct Cache {
    /// Share of the experts' bytes.
    cached: f64,
    /// Bytes of its slots.
    bytes: u64,
    policies: Vec<Outcome>,
    optimum: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    hit_rate: f64,
    /// Bytes read in an average pass.
    bytes_per_pass: f64,
    /// How far the hit rate is below the optimum, in percentage points.
    points_below: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    let catalogue = Arc::new(bundle.catalogue());
    let of_trace = |e: String| Failure::new(format!("{}: {e}", args.trace.display()));
    let trace = Trace::read(&documents::read(&args.trace)?, &catalogue, &bundle.manifest().fingerprint).map_err(of_trace)?;
    let used = used_bytes(&catalogue, &trace.passes);
    if used == 0 {
        return Err(of_trace("it uses no experts, there is nothing to replay".into()));
    }
    let asked = |p: &Policy| *p == Policy::Lru || args.policy.is_empty() || args.policy.contains(p);
    let policies: Vec<Policy> = Policy::ALL.into_iter().filter(asked).collect();
    let budgets: Vec<u64> = match args.ram.as_slice() {
        [] => args.cached.iter().map(|share| (catalogue.bytes() as f64 * share) as u64).collect(),
        sizes => sizes.iter().map(|b| b.as_u64()).collect(),
    };
    let report = Report {
        passes: trace.passes.len(),
        expert_bytes: catalogue.bytes(),
        bytes_per_pass: used as f64 / trace.passes.len() as f64,
        caches: budgets.iter().map(|&b| cache(&catalogue, b, &policies, &trace.passes)).collect::<Result<_>>()?,
    };
    print(&report, args.json)
}

/// Bytes that all passes use.
fn used_bytes(catalogue: &Catalogue, passes: &[Pass]) -> u64 {
    let steps = passes.iter().flat_map(|p| p.0.iter().zip(catalogue.steps()));
    steps.filter_map(|(records, pool)| Some(records.len() as u64 * catalogue.pools()[(*pool)?].bytes)).sum()
}

/// Replays `passes` with room for `budget` bytes of experts.
fn cache(catalogue: &Arc<Catalogue>, budget: u64, policies: &[Policy], passes: &[Pass]) -> Result<Cache> {
    let share = |bytes: u64| bytes as f64 / catalogue.bytes() as f64;
    let too_small = |least: u64| {
        // Rounded up in its last place.
        let smallest = (share(least) * 1e4).ceil() / 1e4;
        Failure::new(format!(
            "{budget} bytes have no room for the experts of one token at one step; the least is {least}, --cached {smallest}"
        ))
    };
    let layout = |sharing| Layout::new(catalogue, budget, sharing, u64::MAX).map_err(too_small);
    let shared = layout(Sharing::Shared)?;
    let best = optimum(catalogue, &shared, passes);
    let outcome = |policy, replay: Replay| {
        let rate = |r: &Replay| r.counts.hit_rate().unwrap_or(0.0);
        let points_below = 100.0 * (rate(&best) - rate(&replay));
        Outcome { policy, hit_rate: rate(&replay), bytes_per_pass: replay.bytes as f64 / passes.len() as f64, points_below }
    };
    let run = |&p: &Policy| Ok(outcome(Some(p), replay(catalogue, &layout(Sharing::best(p, catalogue, budget))?, p, passes)));
    let policies = policies.iter().map(run).collect::<Result<_>>()?;
    Ok(Cache { cached: share(budget), bytes: shared.bytes(), policies, optimum: outcome(None, best) })
}

fn print(r: &Report, json: bool) -> Result<()> {
    let mut out = stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, r)?;
        return Ok(writeln!(out)?);
    }
    let bytes = |b: f64| HumanBytes(b as u64).to_string();
    writeln!(out, "{} passes, each using {} of {} in experts", r.passes, bytes(r.bytes_per_pass), bytes(r.expert_bytes as f64))?;
    for c in &r.caches {
        writeln!(out, "\n{:.0} % cached ({})", c.cached * 100.0, HumanBytes(c.bytes))?;
        writeln!(out, "  {:<10} {:>8} {:>14} {:>14}", "policy", "hits", "read per pass", "below optimum")?;
        for o in c.policies.iter().chain([&c.optimum]) {
            let name = o.policy.map_or("optimum", Policy::name);
            let below = o.policy.map_or_else(String::new, |_| format!("{:.1} points", o.points_below));
            let line = format!("  {name:<10} {:>6.1} % {:>14} {below:>14}", o.hit_rate * 100.0, bytes(o.bytes_per_pass));
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

/// A share of the whole.
fn share(s: &str) -> std::result::Result<f64, String> {
    s.parse().ok().filter(|x| *x > 0.0 && *x <= 1.0).ok_or_else(|| "a share is more than 0 and at most 1".into())
}

//! `hotset inspect`: what is in a bundle, and whether it is intact.

use std::io::Write;
use std::path::PathBuf;

use hotset::bundle::{Bundle, RecordLayout};
use hotset::plan::{Expert, Plan, Step, Work};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::failure::Result;

/// Show what is in a bundle, or check that it is intact
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bundle
    #[arg(value_name = "B")]
    bundle: PathBuf,
    /// Read the whole file and compare it with its hashes
    #[arg(long)]
    verify: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    if args.verify {
        let bar = crate::progress::bytes();
        bar.set_length(bundle.len());
        bundle.verify(|done| bar.set_position(done))?;
        bar.finish_and_clear();
    }
    let overview = Overview::of(&bundle, args.verify);
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::to_string_pretty(&overview)?;
        writeln!(out, "{json}")?;
    } else {
        overview.print(&mut out)?;
    }
    Ok(())
}

/// What a person or a script wants to know about a bundle. Sizes in bytes.
#[derive(Serialize)]
struct Overview<'a> {
    name: &'a str,
    family: &'a str,
    tool: &'a str,
    history: &'a [String],
    fingerprint: &'a str,
    /// Whether all hashes were compared; they matched, or there would be no overview.
    verified: bool,
    bytes: u64,
    dense_bytes: u64,
    expert_bytes: u64,
    width: u32,
    vocab: u32,
    context: Option<u32>,
    tokenizer: bool,
    chat_template: bool,
    bos: Option<u32>,
    eos: &'a [u32],
    pools: Vec<PoolOverview<'a>>,
    steps: Vec<StepOverview<'a>>,
}

#[derive(Serialize)]
struct PoolOverview<'a> {
    name: &'a str,
    experts: u32,
    records: u32,
    record_bytes: usize,
    codec: &'static str,
    expert: &'a Expert,
}

#[derive(Serialize)]
struct StepOverview<'a> {
    name: &'a str,
    kind: String,
    /// Name of the pool.
    pool: Option<&'a str>,
    /// The most experts a token uses here.
    routes: Option<u32>,
}

impl<'a> Overview<'a> {
    fn of(bundle: &'a Bundle, verified: bool) -> Overview<'a> {
        let (manifest, plan) = (bundle.manifest(), bundle.plan());
        let (origin, text) = (&manifest.provenance, manifest.text.as_ref());
        let pool = |(i, p): (usize, &'a hotset::plan::Pool)| {
            let RecordLayout { bytes, .. } = bundle.record_layout(i);
            PoolOverview {
                name: &p.name,
                experts: p.experts(),
                records: p.records,
                record_bytes: *bytes,
                codec: p.codec.name(),
                expert: &p.expert,
            }
        };
        let pools: Vec<_> = plan.pools.iter().enumerate().map(pool).collect();
        Overview {
            name: &origin.name,
            family: &origin.family,
            tool: &origin.tool,
            history: &origin.history,
            fingerprint: &manifest.fingerprint,
            verified,
            bytes: bundle.len(),
            dense_bytes: manifest.tensors.values().filter_map(|t| t.bytes()).sum::<usize>() as u64,
            expert_bytes: pools.iter().map(|p| u64::from(p.records) * p.record_bytes as u64).sum(),
            width: plan.width,
            vocab: plan.vocab,
            context: plan.context,
            tokenizer: text.is_some(),
            chat_template: text.is_some_and(|t| t.chat_template.is_some()),
            bos: text.and_then(|t| t.bos.filter(|_| t.add_bos)),
            eos: text.map_or(&[], |t| &t.eos),
            pools,
            steps: plan.steps.iter().map(|s| StepOverview::of(plan, s)).collect(),
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let yes = |b| if b { "yes" } else { "no" };
        writeln!(out, "{} ({}), {}", self.name, self.family, HumanBytes(self.bytes))?;
        writeln!(out, "  written by   {}: {}", self.tool, self.history.join(", "))?;
        writeln!(out, "  fingerprint  {}", self.fingerprint)?;
        if self.verified {
            writeln!(out, "  integrity    every region matches its hash")?;
        }
        writeln!(out, "  sizes        dense {}, experts {}", HumanBytes(self.dense_bytes), HumanBytes(self.expert_bytes))?;
        let context = self.context.map_or("no limit".to_owned(), |n| format!("{n} tokens"));
        writeln!(out, "  model        width {}, vocabulary {}, context {context}", self.width, self.vocab)?;
        writeln!(out, "  text         tokenizer {}, chat template {}", yes(self.tokenizer), yes(self.chat_template))?;
        // Layers are alike as a rule: say each thing once, with the number of times.
        writeln!(out, "  pools")?;
        let pool = |p: &PoolOverview<'_>| {
            format!("{} experts of {}, {}, {}", p.experts, HumanBytes(p.record_bytes as u64), p.codec, describe(p.expert))
        };
        repeated(out, self.pools.iter().map(pool))?;
        writeln!(out, "  steps")?;
        repeated(out, self.steps.iter().map(StepOverview::describe))
    }
}

/// Prints each distinct line once, in order of appearance, with its count.
fn repeated(out: &mut impl Write, lines: impl Iterator<Item = String>) -> std::io::Result<()> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match counted.iter_mut().find(|(l, _)| *l == line) {
            Some((_, n)) => *n += 1,
            None => counted.push((line, 1)),
        }
    }
    counted.iter().try_for_each(|(line, n)| writeln!(out, "    {n:>4} × {line}"))
}

fn describe(expert: &Expert) -> String {
    match *expert {
        Expert::Ffn { hidden, gated, .. } => format!("{} of {hidden}", if gated { "gated feed-forward" } else { "feed-forward" }),
        Expert::Attention { heads, kv_heads, head_dim, .. } => format!("attention of {heads} heads of {head_dim} on {kv_heads}"),
        Expert::QueryOutput { heads, head_dim } => format!("queries and output of {heads} heads of {head_dim}"),
    }
}

impl<'a> StepOverview<'a> {
    fn of(plan: &'a Plan, step: &'a Step) -> StepOverview<'a> {
        let kind = match &step.work {
            Work::Attention(a) => {
                let kv = plan.states[a.state as usize].kv_heads;
                let window = a.window.map_or(String::new(), |w| format!(", window {w}"));
                format!("attention, {} heads on {kv}{window}", a.heads)
            }
            Work::Convolution(c) => format!("convolution over {} tokens", c.taps),
            Work::Identity => "copy".to_owned(),
            Work::Ffn(f) => match (&f.shared, &step.routed) {
                (Some(_), Some(_)) => "feed-forward with an always-on part".to_owned(),
                (Some(_), None) => "dense feed-forward".to_owned(),
                (None, _) => "feed-forward".to_owned(),
            },
        };
        let routed = step.routed.as_ref();
        let pool = routed.map(|r| &plan.pools[r.pool as usize]);
        let routes = routed.zip(pool).map(|(r, p)| r.router.max_routes(p.experts()));
        StepOverview { name: &step.name, kind, pool: pool.map(|p| p.name.as_str()), routes }
    }

    fn describe(&self) -> String {
        match self.routes {
            Some(k) => format!("{}, {k} experts per token", self.kind),
            None => self.kind.clone(),
        }
    }
}

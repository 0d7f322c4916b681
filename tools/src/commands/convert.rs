//! `hotset convert`: checkpoint folder → bundle.

use std::path::PathBuf;
use std::time::Instant;

use hotset::bundle::Manifest;
use hotset::codec::Codec;

use crate::checkpoint::Checkpoint;
use crate::failure::Result;
use crate::{import, interrupt};

/// Convert a checkpoint folder to a bundle
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with config.json, safetensors or PyTorch weights, and tokenizer.json if there is one
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The bundle to write, by custom with the extension .hotset
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How matrices are stored: f32, f16, bf16, q8 (8.5 bits per weight), q4 (4.5) or mxfp4 (4.25) [default: q4, but experts published in
    /// mxfp4 keep their values]
    #[arg(long)]
    codec: Option<Codec>,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// For `hotset quantize`.
    pub(super) fn new(source: PathBuf, output: PathBuf, codec: Codec, json: bool) -> Args {
        Args { source, output, codec: Some(codec), json }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&args.source)?;
    let (family, import) = import::import(checkpoint.config(), checkpoint.tensors())?;
    let tokenizer = checkpoint.tokenizer(import.plan.vocab)?;

    let stop = interrupt::flag()?;
    let bar = crate::progress::bytes();
    let progress = crate::progress::advance(&bar);
    let options = import::Options { target: &args.output, codec: args.codec, family, stop: &stop, progress: &progress };
    let manifest = import::write(&checkpoint, import, tokenizer, &options)?;
    bar.finish_and_clear();

    let bytes = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    summary(&args, &manifest, bytes, started.elapsed().as_secs_f64())
}

fn summary(args: &Args, manifest: &Manifest, bytes: u64, seconds: f64) -> Result<()> {
    use std::io::Write;
    let (plan, mut out) = (&manifest.plan, std::io::stdout().lock());
    let experts: u32 = plan.pools.iter().map(|p| p.records).sum();
    if args.json {
        let summary = serde_json::json!({
            "bundle": args.output,
            "family": manifest.provenance.family,
            "codec": args.codec.unwrap_or(import::DEFAULT),
            "bytes": bytes,
            "pools": plan.pools.len(),
            "experts": experts,
            "tokenizer": manifest.text.is_some(),
            "fingerprint": manifest.fingerprint,
            "seconds": seconds,
        });
        writeln!(out, "{summary}")?;
    } else {
        let size = indicatif::HumanBytes(bytes);
        let text = if manifest.text.is_some() { "with tokenizer" } else { "without tokenizer: it runs on token ids" };
        let pools = plan.pools.len();
        writeln!(
            out,
            "{}: {family}, {experts} experts in {pools} pools, {history}, {size}, {text}",
            args.output.display(),
            family = manifest.provenance.family,
            history = manifest.provenance.history.join(", "),
        )?;
    }
    Ok(())
}

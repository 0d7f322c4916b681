//! `hotset adapt`: a published adapter → an adapter file for a bundle.

use std::io::Write;
use std::path::PathBuf;

use hotset::Adapter;
use hotset::bundle::Bundle;

use crate::adapt;
use crate::checkpoint::Checkpoint;
use crate::failure::Result;

/// Turn a LoRA, MixLoRA or DynMoLE adapter into a file that `--adapter` takes
///
/// The bundle stays as it is; any bundle of the same base model will do, whatever its codec.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with adapter_config.json and adapter_model.safetensors or adapter_model.bin
    #[arg(value_name = "ADAPTER")]
    source: PathBuf,
    /// A bundle of the model that the adapter was trained on
    #[arg(long, value_name = "BUNDLE")]
    base: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let folder = Checkpoint::adapter(&args.source)?;
    let base = Bundle::open(&args.base)?;
    let (adapter, tensors) = adapt::read(&folder, base.manifest())?;
    Adapter::write(&args.output, adapter, &tensors)?;
    // What does not fit shows now rather than at the first use.
    let adapter = Adapter::open(&args.output)?;
    base.adapted(&adapter)?;
    let (deltas, mixtures) = (adapter.adapter().deltas.len(), adapter.adapter().mixtures.len());
    let size = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let (path, size) = (args.output.display(), indicatif::HumanBytes(size));
    writeln!(std::io::stdout(), "{path}: additions to {deltas} matrices, {mixtures} of the layers are mixtures, {size}")?;
    Ok(())
}

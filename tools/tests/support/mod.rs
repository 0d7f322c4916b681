//! What several test files need: golden checkpoints, the tool, and logits from the plain reference executor.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model, Output as Result, RunOptions, Want};
use safetensors::SafeTensors;

/// The folder of a golden checkpoint.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// Runs the tool.
pub(crate) fn hotset(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hotset")).args(args).output().unwrap()
}

/// Converts `source` into a bundle in the folder `out`.
pub(crate) fn convert(source: &Path, out: &Path, codec: &str) -> PathBuf {
    let target = out.join(format!("{codec}.hotset"));
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", target.to_str().unwrap(), "--codec", codec]);
    assert!(done.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&done.stderr));
    target
}

/// Logits of all positions.
pub(crate) fn logits(bundle: &Path, tokens: &[u32]) -> Vec<f32> {
    let model = ReferenceModel::new(Arc::new(Bundle::open(bundle).unwrap()));
    let mut run = model.start(RunOptions { context: tokens.len(), slide: false, stick_epsilon: 0.0 }).unwrap();
    match run.forward(tokens, Want::All).unwrap() {
        Result::Logits(logits) => logits,
        other => panic!("{other:?}"),
    }
}

/// Tokens and logits of the original implementation.
pub(crate) fn reference(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    let tokens = tokens.data().chunks_exact(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap());
    let logits = file.tensor("logits").unwrap();
    let logits = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tokens.collect(), logits.collect())
}

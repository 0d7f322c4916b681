//! What several test files need: golden checkpoints and the tool.

#![allow(dead_code, reason = "shared by several test programs, none of which uses everything")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;

/// The folder of a golden checkpoint.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// Runs the tool.
pub(crate) fn hotset(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hotset")).args(args).output().unwrap()
}

/// Whether there is a GPU for checking `what`, a software one at least. Continuous integration must have one.
pub(crate) fn gpu(what: &str) -> bool {
    let found = hotset::gpu::adapters().iter().any(|a| a.unusable.is_none());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "there is no Vulkan, Metal or DX12 device; install mesa-vulkan-drivers");
        // Written past the capture of test output: whoever runs the tests must see it.
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what} on a GPU, because this machine has no Vulkan, Metal or DX12 device");
    }
    found
}

/// Converts `source` into a bundle in the folder `out`.
pub(crate) fn convert(source: &Path, out: &Path, codec: &str) -> PathBuf {
    let target = out.join(format!("{codec}.hotset"));
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", target.to_str().unwrap(), "--codec", codec]);
    assert!(done.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&done.stderr));
    target
}

/// Tokens and logits of the original implementation.
pub(crate) fn reference(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, logits) = (file.tensor("tokens").unwrap(), file.tensor("logits").unwrap());
    let tokens = tokens.data().as_chunks::<8>().0.iter().map(|b| u32::try_from(i64::from_le_bytes(*b)).unwrap());
    (tokens.collect(), logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// Largest difference between logits, in units of the standard deviation of those that should be.
pub(crate) fn deviation(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let std = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / std
}

//! What several test files need: golden checkpoints and the tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

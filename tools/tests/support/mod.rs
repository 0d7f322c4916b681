//! What several test files need: golden checkpoints and the tool.

#![allow(dead_code, reason = "shared by several test programs, none of which uses everything")]

use std::io::Write;
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

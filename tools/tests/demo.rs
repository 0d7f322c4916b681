//! The committed demo bundle: intact, and word for word what it always says, on every executor.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write;
use std::process::Command;

const PROMPT: &str = "Once upon a time";
const CONTINUATION: &str = " there was a little girl named Lily. She loved to play with her toys and play with her toys. \
    One day, she went to the park with her mom. She saw a big, red balloon in the park. She";

fn run(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hotset")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn says_the_same_words_on(device: &str) {
    let (ok, out, err) = run(&["run", "-p", PROMPT, "-n", "48", "--temp", "0", "--device", device]);
    assert!(ok, "{err}");
    assert_eq!(out.trim_end_matches('\n'), CONTINUATION, "on {device}");
}

#[test]
fn cpu() {
    says_the_same_words_on("cpu");
}

#[test]
fn reference() {
    says_the_same_words_on("reference");
}

#[test]
fn gpu() {
    if hotset::gpu::adapters().iter().all(|a| a.unusable.is_some()) {
        assert!(std::env::var_os("CI").is_none(), "there is no Vulkan, Metal or DX12 device; install mesa-vulkan-drivers");
        // Written past the capture of test output: whoever runs the tests must see it.
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: the demo on a GPU, because this machine has no Vulkan, Metal or DX12 device");
        return;
    }
    says_the_same_words_on("gpu");
}

#[test]
fn is_intact() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");
    let (ok, _, err) = run(&["inspect", path, "--verify"]);
    assert!(ok, "{err}");
}

//! The committed demo bundle: intact, and word for word what it always says, on every executor.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use support::hotset;

const PROMPT: &str = "Once upon a time";
const CONTINUATION: &str = " there was a little girl named Lily. She loved to play with her toys and play with her toys. \
    One day, she went to the park with her mom. She saw a big, red balloon in the park. She";

fn says_the_same_words_on(device: &str) {
    let done = hotset(&["run", "-p", PROMPT, "-n", "48", "--temp", "0", "--device", device]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let out = String::from_utf8(done.stdout).unwrap();
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
    if support::gpu("the demo") {
        says_the_same_words_on("gpu");
    }
}

#[test]
fn is_intact() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");
    let done = hotset(&["inspect", path, "--verify"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

//! What goes wrong is said in one sentence, with exit code 1; wrong usage exits with 2.

mod tiny;

use tiny::{Tiny, command, hotset, hotset_with, str};

#[test]
fn usage() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["run", "--frobnicate"],
        &["run", "b", "-n", "many"],
        &["logits", "b"],
        &["logits", "b", "--tokens", "1", "--text", "x"],
        &["bench", "-n", "0"],
        &["eval", "b"],
    ] {
        let done = hotset(args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!done.stderr.is_empty());
    }
    for command in ["run", "chat", "logits", "eval", "bench", "devices", "trace", "replay", "synth"] {
        assert!(hotset(&[command, "--help"]).ok().contains("--"), "{command}");
    }
}

#[test]
fn files() {
    let tiny = Tiny::new();
    let missing = tiny.path("missing.hotset");
    assert!(hotset(&["run", str(&missing), "-p", "x"]).error().contains("missing.hotset"));
    for contents in [&b""[..], b"hello, I am no bundle at all", &[0xff; 64]] {
        let file = tiny.file("junk", contents);
        assert!(hotset(&["logits", str(&file), "--tokens", "1"]).error().contains("junk"));
    }
    assert!(hotset(&["eval", str(&tiny.bundle()), "--text", str(&missing)]).error().contains("missing.hotset"));
    let latin = tiny.file("latin", b"caf\xe9");
    assert!(hotset(&["eval", str(&tiny.bundle()), "--text", str(&latin)]).error().contains("latin"));
}

#[test]
fn prompts() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let b = str(&b);
    assert!(hotset(&["run", b, "-p", ""]).error().contains("prompt is empty"));
    assert!(hotset(&["run", b]).error().contains("prompt is empty"), "an empty pipe");
    assert!(hotset_with(&["run", b], b"ab\xff").error().contains("not UTF-8"));
    let long = "x".repeat(tiny::CONTEXT + 1);
    assert!(hotset(&["run", b, "-p", &long]).error().contains("25 tokens do not fit the context of 24"));
    assert!(hotset(&["run", b, "-p", "x", "--context", "0"]).error().contains("context of 0"));
    assert!(hotset(&["run", b, "-p", "x", "--temp", "-1"]).code.is_some_and(|c| c != 0));
    assert!(hotset(&["run", b, "-p", "x", "--top-p", "7"]).error().contains("top-p"));
    assert!(hotset(&["run", b, "-p", "x", "--threads", "0"]).error().contains("threads"));
}

#[test]
fn budgets() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let run = |args: &[&str]| hotset(&[&["run", str(&b), "-p", "x", "-n", "2"], args].concat());
    let error = run(&["--device", "cpu", "--ram", "1KiB"]).error();
    assert!(error.contains("too small") && error.contains("smallest that works"), "{error}");
    assert_eq!(run(&["--device", "cpu", "--ram", "64MiB"]).ok(), run(&["--device", "cpu"]).ok());
    assert_eq!(run(&["--device", "cpu", "--ram", "lots"]).code, Some(2));
    assert_eq!(run(&["--device", "cpu", "--policy", "mru"]).code, Some(2));
    assert!(run(&["--device", "cpu", "--vram", "1GiB"]).error().contains("limited by ram"));
    assert!(run(&["--device", "gpu", "--ram", "1GiB"]).error().contains("limited by vram"));
    assert!(run(&["--device", "reference", "--ram", "1GiB"]).error().contains("no budget"));
    assert!(run(&["--device", "cpu", "--placement", "hybrid"]).error().contains("needs a GPU"));
    let heat = tiny.path("heat.json");
    assert!(run(&["--device", "cpu", "--heat", str(&heat)]).error().contains("--ram"));
    let with_heat = ["--device", "cpu", "--ram", "64MiB", "--heat", str(&heat)];
    assert_eq!(run(&with_heat).ok(), run(&with_heat).ok());
    let damaged = tiny.file("damaged.json", b"{");
    let with_damaged = ["--device", "cpu", "--ram", "64MiB", "--heat", str(&damaged)];
    assert!(run(&with_damaged).error().contains("heat file"));
}

#[test]
fn token_ids() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    assert!(hotset(&["logits", str(&b), "--tokens", "5,258"]).error().contains("token 258 is not in the vocabulary"));
    for bad in ["1,x", "1,,2", "-1", "4294967296"] {
        assert!(hotset(&["logits", str(&b), "--tokens", bad]).error().contains("is not a token id"), "{bad}");
    }
    assert!(hotset(&["logits", str(&b), "--tokens", ""]).error().contains("empty"));
    assert!(hotset(&["logits", str(&b), "--text", ""]).error().contains("empty"));
    let many = vec!["1"; 25].join(",");
    assert!(hotset(&["logits", str(&b), "--tokens", &many, "--context", "24"]).error().contains("context of 24"));
}

#[test]
fn bundles_without_a_tokenizer() {
    let tiny = Tiny::new();
    let b = tiny.bundle_without_text();
    for args in [&["run", str(&b), "-p", "x"][..], &["chat", str(&b)], &["logits", str(&b), "--text", "x"]] {
        assert!(hotset(args).error().contains("no tokenizer"), "{args:?}");
    }
    hotset(&["logits", str(&b), "--tokens", "1"]).ok();
}

#[test]
fn devices_that_are_not_there() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let error = hotset(&["logits", str(&b), "--tokens", "1", "--device", "frobnicator 9000"]).error();
    assert!(error.contains("frobnicator 9000"), "{error}");
    // No driver at all: only a machine whose adapters come from Vulkan can be made to look like that.
    if cfg!(target_os = "linux") {
        let no_driver = |device| {
            let mut command = command(&["logits", str(&b), "--tokens", "1", "--device", device]);
            command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent").output().expect("hotset starts")
        };
        let output = no_driver("gpu");
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
        assert_eq!(no_driver("auto").status.code(), Some(0), "auto falls back to the CPU");
    }
}

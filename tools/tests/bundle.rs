//! `hotset bundle`: what is chosen for a device is what is written, fits it, and is refused where nothing fits.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod tiny;

use hotset::bundle::Bundle;
use hotset::profile::{Profile, RatioLoss, Usage};
use serde_json::Value;
use tiny::{Tiny, hotset, str};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");
/// What the program is said to take of a device's memory, beside eight times the tokenizer's file.
const PROGRAM: u64 = 2 << 20;
const TALE: &str = "Once upon a time there was a king who had twelve daughters, and the youngest was the fairest of them all. ";

fn bundle(source: &str, ram: &str, more: &[&str]) -> Value {
    let device = format!("ram={ram},bandwidth=20GB/s,flash=1GB/s");
    serde_json::from_str(&hotset(&[&["bundle", source, "--device", &device, "--context", "64", "--json"], more].concat()).ok()).unwrap()
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report}"))
}

/// A profile of a tale, with losses that are known: half of the experts cost 5 %.
fn profile(tiny: &Tiny) -> String {
    let (text, out) = (tiny.file("tale.txt", TALE.repeat(8)), tiny.path("p.json"));
    hotset(&["profile", DEMO, "--text", str(&text), "-o", str(&out), "--losses", "16"]).ok();
    let mut profile = Profile::read(&std::fs::read_to_string(&out).unwrap()).unwrap();
    let losses = profile.losses.as_mut().unwrap();
    let costs = [(0.9, 1.01), (0.5, 1.05), (0.3, 1.25)];
    losses.ratios = costs.map(|(keep, cost)| RatioLoss { keep, bytes: 0, loss: losses.base * cost }).to_vec();
    std::fs::write(&out, profile.to_json().unwrap()).unwrap();
    str(&out).to_owned()
}

#[test]
fn with_a_profile_experts_are_dropped_as_far_as_allowed() {
    let tiny = Tiny::new();
    let (p, out) = (profile(&tiny), tiny.path("out.hotset"));
    let roomy = bundle(DEMO, "1GiB", &["--profile", &p]);
    assert_eq!((number(&roomy, "/keep"), number(&roomy, "/prediction/hit_rate")), (1.0, 1.0));
    let blind = bundle(DEMO, "14MiB", &[]);
    assert_eq!(number(&blind, "/keep"), 1.0);
    assert!(number(&blind, "/prediction/hit_rate") < 0.8);

    let tight = bundle(DEMO, "14MiB", &["--profile", &p, "--max-loss", "100", "-o", str(&out)]);
    let (keep, hit) = (number(&tight, "/keep"), number(&tight, "/prediction/hit_rate"));
    assert!((0.4..0.8).contains(&keep) && (number(&tight, "/loss") > number(&tight, "/loss_before")), "{tight}");
    assert_eq!(hit, 1.0, "what is kept stays in memory: {tight}");
    assert!(number(&tight, "/prediction/tokens_per_second") > number(&blind, "/prediction/tokens_per_second"));
    // The file is what was said, and runs in that memory.
    let made = Bundle::open(&out).unwrap();
    assert_eq!(made.len(), number(&tight, "/bytes") as u64);
    assert_eq!(made.catalogue().bytes(), number(&tight, "/prediction/experts") as u64);
    let whole = Bundle::open(DEMO).unwrap().catalogue().bytes() as f64;
    assert!((made.catalogue().bytes() as f64 / whole - keep).abs() < 1e-9);
    hotset(&["run", str(&out), "-p", "Once", "-n", "4", "--context", "64", "--device", "cpu", "--ram", "10MiB"]).ok();
    hotset(&["inspect", str(&out), "--verify"]).ok();
    let strict = bundle(DEMO, "14MiB", &["--profile", &p, "--max-loss", "0"]);
    assert_eq!(number(&strict, "/keep"), 1.0, "{strict}");
    // A quarter of the way from 90 to 50 %, and no further than to where five per cent are lost.
    let some = bundle(DEMO, "14MiB", &["--profile", &p, "--max-loss", "2"]);
    assert!((number(&some, "/keep") - 0.8).abs() < 0.02 && number(&some, "/prediction/hit_rate") < 1.0, "{some}");
    let bound = number(&some, "/loss") / number(&some, "/loss_before");
    assert!((bound - 1.02).abs() < 2e-3, "{some}");
}

#[test]
fn bits_follow_from_memory() {
    let tiny = Tiny::new();
    let folder = support::golden("olmoe");
    let source = str(&folder);
    let fine = bundle(source, "1GiB", &[]);
    assert_eq!(fine["codec"], "q8");
    let (needs, experts) = (number(&fine, "/prediction/dense") + number(&fine, "/prediction/caches"), number(&fine, "/prediction/experts"));
    let out = tiny.path("out.hotset");
    // Not room for all experts in 8 bits, with working memory beside them.
    let ram = (needs + experts + PROGRAM as f64).to_string();
    let coarse = bundle(source, &ram, &["-o", str(&out)]);
    assert_eq!(coarse["codec"], "q4", "{coarse}");
    assert_eq!(Bundle::open(&out).unwrap().catalogue().bytes(), number(&coarse, "/prediction/experts") as u64);
}

#[test]
fn what_cannot_be_is_refused() {
    let tiny = Tiny::new();
    let (p, out) = (profile(&tiny), tiny.path("out.hotset"));
    let spec = |ram: &str| format!("ram={ram},bandwidth=20GB/s,flash=1GB/s");
    let run =
        |device: &str, more: &[&str]| hotset(&[&["bundle", DEMO, "--device", device, "--context", "64", "-o", str(&out)], more].concat());
    let error = run(&spec("2MiB"), &[]).error();
    let least: u64 = error.split_once('(').unwrap().1.split_once(" bytes").unwrap().0.parse().unwrap();
    assert!(error.contains("runs in no less than") && !out.exists(), "{error}");
    // The smallest memory that is named is the engine's own.
    assert!(run(&spec(&(least - 1).to_string()), &[]).error().contains("no less than"));
    run(&spec(&least.to_string()), &[]).ok();
    let tokenizer = Bundle::open(DEMO).unwrap().tokenizer().unwrap().len() as u64;
    let budget = (least - PROGRAM - 8 * tokenizer).to_string();
    hotset(&["run", DEMO, "-p", "O", "-n", "2", "--context", "64", "--device", "cpu", "--ram", &budget]).ok();
    std::fs::remove_file(&out).unwrap();

    let other = tiny.file("other.json", std::fs::read_to_string(&p).unwrap().replacen("\"fingerprint\":\"", "\"fingerprint\":\"0", 1));
    assert!(run("pixel-8", &["--profile", str(&other)]).error().contains("profile of another bundle"));
    assert!(!out.exists());
    for device in ["nokia-3310", "ram=1GiB", "ram=x,bandwidth=1GB/s,flash=1GB/s"] {
        let done = run(device, &[]);
        assert_eq!(done.code, Some(2), "{device}");
    }
    assert!(run("nokia-3310", &[]).stderr.contains("pixel-8"), "names are listed");
    let plain = hotset(&["bundle", DEMO, "--device", "pixel-8"]).ok();
    assert!(plain.contains("tokens/s predicted") && plain.contains("LPDDR5X"), "{plain}");
}

/// A checkpoint and a profile in one command give what converting first gives, and leave nothing else behind.
#[test]
fn a_checkpoint_and_a_profile_in_one_command() {
    let (tiny, made) = (Tiny::new(), tempfile::tempdir().unwrap());
    let folder = support::golden("olmoe");
    let source = support::convert(&folder, made.path(), "f16");
    let bundle = Bundle::open(&source).unwrap();
    let mut usage = Usage { tokens: 100, ..Usage::new(bundle.plan()) };
    for step in &mut usage.steps {
        step.selections.iter_mut().zip(1..).for_each(|(n, use_)| *n = use_);
    }
    let mut profile = Profile::new(&bundle);
    profile.add("text", &usage).unwrap();
    let p = tiny.file("p.json", profile.to_json().unwrap());
    let device = "ram=1GiB,bandwidth=20GB/s,flash=1GB/s";
    let [one, two] = ["one", "two"].map(|n| made.path().join(n));
    for (source, out) in [(str(&folder), &one), (str(&source), &two)] {
        hotset(&["bundle", source, "--device", device, "--profile", str(&p), "-o", str(out)]).ok();
    }
    let [one, two] = [one, two].map(|path| Bundle::open(path).unwrap().manifest().clone());
    assert_eq!(one.fingerprint, two.fingerprint);
    assert_eq!(std::fs::read_dir(made.path()).unwrap().count(), 3, "the two results and the bundle that was converted");
    let other = support::golden("mixtral");
    assert!(hotset(&["bundle", str(&other), "--device", device, "--profile", str(&p)]).error().contains("profile of another bundle"));
}

//! `hotset trace` and `hotset replay`: what was recorded comes back, what does not fit is refused, and the default policy is worth having.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod tiny;

use std::path::Path;

use hotset::bundle::Bundle;
use hotset::experts::Trace;
use serde_json::Value;
use tiny::{Tiny, hotset, str};

/// The demo bundle.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");
/// Its routes for 400 tokens of Python and 400 of fairy tales.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/demo.json");

fn read(path: &Path) -> Trace {
    let bundle = Bundle::open(DEMO).unwrap();
    Trace::read(&std::fs::read_to_string(path).unwrap(), &bundle.catalogue(), &bundle.manifest().fingerprint).unwrap()
}

/// Records `text` on the demo bundle.
fn trace(tiny: &Tiny, name: &str, text: &str, more: &[&str]) -> Trace {
    let (text, out) = (tiny.file("text", text), tiny.path(name));
    hotset(&[&["trace", DEMO, "--text", str(&text), "-o", str(&out)], more].concat()).ok();
    read(&out)
}

#[test]
fn a_batch_uses_what_its_tokens_use() {
    let tiny = Tiny::new();
    let text = "Once upon a time there was a king who had twelve daughters.";
    let single = trace(&tiny, "single.json", text, &[]);
    let batch = trace(&tiny, "batch.json", text, &["--chunk", "512"]);
    assert!(single.passes.len() > 8 && batch.passes.len() == 1);
    assert!(single.passes.iter().flat_map(|p| &p.0).all(|records| records.len() == 2), "each step of the demo uses two experts");
    for (step, of_batch) in batch.passes[0].0.iter().enumerate() {
        let mut all: Vec<u32> = single.passes.iter().flat_map(|p| p.0[step].clone()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(*of_batch, all, "step {step}");
    }
    let pairs = trace(&tiny, "pairs.json", text, &["--chunk", "2", "--context", "5"]);
    // Windows of five tokens are read as two, two and one.
    let tokens = single.passes.len();
    assert_eq!(pairs.passes.len(), tokens / 5 * 3 + (tokens % 5).div_ceil(2));
}

#[test]
fn what_is_recorded_is_replayed() {
    let tiny = Tiny::new();
    let (text, out) = (tiny.file("text", "Once upon a time"), tiny.path("t.json"));
    let t = str(&out);
    hotset(&["trace", DEMO, "--text", str(&text), "--text", str(&text), "--limit", "3", "-o", t]).ok();
    assert_eq!(read(&out).passes.len(), 6);
    let json: Value = serde_json::from_str(&hotset(&["replay", t, DEMO, "--cached", "1", "--policy", "lfu", "--json"]).ok()).unwrap();
    assert_eq!(json["passes"], 6);
    let outcomes = json["caches"][0]["policies"].as_array().unwrap();
    // With room for all, nobody does better than anybody.
    assert_eq!(outcomes.iter().map(|o| o["policy"].as_str().unwrap()).collect::<Vec<_>>(), ["lru", "lfu"]);
    assert!(outcomes.iter().all(|o| o["hit_rate"] == json["caches"][0]["optimum"]["hit_rate"] && o["points_below"] == 0.0), "{json}");
    let table = hotset(&["replay", t, DEMO, "--ram", "4MiB,6MiB"]).ok();
    assert!(["6 passes", "next-use", "lru", "lfu", "optimum", "53 % cached"].iter().all(|s| table.contains(s)), "{table}");
}

#[test]
fn a_bundle_without_a_tokenizer_takes_random_tokens() {
    let tiny = Tiny::new();
    let bundle = support::convert(&support::golden("olmoe"), tiny.path("").as_path(), "f32");
    let (text, out) = (tiny.file("text", "x"), tiny.path("t.json"));
    assert!(hotset(&["trace", str(&bundle), "--text", str(&text), "-o", str(&out)]).error().contains("no tokenizer"));
    assert!(!out.exists());
    hotset(&["trace", str(&bundle), "--random", "20", "-o", str(&out)]).ok();
    hotset(&["replay", str(&out), str(&bundle)]).ok();
}

#[test]
fn what_does_not_fit_is_refused() {
    let tiny = Tiny::new();
    let other = support::convert(&support::golden("olmoe"), tiny.path("").as_path(), "f32");
    assert!(hotset(&["replay", RECORDED, str(&other)]).error().contains("another bundle"));
    let json = std::fs::read_to_string(RECORDED).unwrap();
    let damaged = [
        (json[..json.len() / 2].to_owned(), "no trace"),
        (json.replacen("\"version\":1", "\"version\":9", 1), "newer"),
        (json.replacen("[[", "[[99,", 1), "does not have"),
        (json[..json.find("[[[").unwrap_or_else(|| json.find("[[").unwrap())].to_owned() + "[]}", "no experts"),
    ];
    for (contents, complaint) in damaged {
        let file = tiny.file("damaged.json", contents);
        let error = hotset(&["replay", str(&file), DEMO]).error();
        assert!(error.contains(complaint) && error.contains("damaged.json"), "{error}");
    }
    assert!(hotset(&["replay", RECORDED, DEMO, "--cached", "0.01"]).error().contains("no room"));
    for args in
        [&["replay", RECORDED, DEMO, "--cached", "1.5"][..], &["trace", DEMO, "-o", "x"], &["replay", RECORDED, DEMO, "--policy", "x"]]
    {
        assert_eq!(hotset(args).code, Some(2), "{args:?}");
    }
}

/// The figures are those of a real trace of two kinds of text, the cache empty at the start.
#[test]
fn the_default_policy_is_nearer_to_the_optimum_than_the_others() {
    let json: Value = serde_json::from_str(&hotset(&["replay", RECORDED, DEMO, "--json"]).ok()).unwrap();
    for (cache, (points, better_than_lru)) in json["caches"].as_array().unwrap().iter().zip([(20.0, 4.0), (15.5, 6.0), (6.5, 2.5)]) {
        let below = |policy: &str| {
            let outcome = cache["policies"].as_array().unwrap().iter().find(|o| o["policy"] == policy).unwrap();
            outcome["points_below"].as_f64().unwrap()
        };
        assert!(below("next-use") < points, "{cache}");
        assert!(below("next-use") < below("lru") - better_than_lru && below("next-use") < below("lfu"), "{cache}");
    }
}

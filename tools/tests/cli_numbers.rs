//! `hotset logits`, `eval` and `bench`: the figures are right.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod tiny;

use hotset::{Device, Engine, EngineOptions, SessionOptions};
use serde_json::Value;
use tiny::{Tiny, VOCAB, hotset, str};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&hotset(args).ok()).unwrap()
}

#[test]
fn logits_survive_printing() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let engine = Engine::open(&b, &EngineOptions { device: Device::Cpu, threads: None, ..EngineOptions::default() }).unwrap();
    let expected = engine.session(&SessionOptions::default()).unwrap().logits(&[72, 5]).unwrap();
    let printed = json(&["logits", str(&b), "--tokens", "72,5", "--device", "cpu", "--json"]);
    let rows: Vec<Vec<f32>> = serde_json::from_value(printed["logits"].clone()).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows.concat().iter().map(|l| l.to_bits()).collect::<Vec<_>>(), expected.iter().map(|l| l.to_bits()).collect::<Vec<_>>());
    let from_text = json(&["logits", str(&b), "--text", "H\u{5}", "--device", "cpu", "--json"]);
    assert_eq!(from_text, printed);
    assert_eq!(hotset(&["logits", str(&b), "--tokens", "72,5"]).ok().lines().count(), 2);
}

/// The model looks at one token only, so windows change nothing but which tokens are predicted.
#[test]
fn eval_scores_every_token_once() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let text = tiny.file("text", "  H\u{e9} w!\n<|endoftext|>\n\nab\n<|endoftext|>\n");
    let stream: Vec<u32> = "H\u{e9} w!".bytes().map(u32::from).chain([257, 97, 98, 257]).collect();
    let engine = Engine::open(&b, &EngineOptions { device: Device::Reference, threads: None, ..EngineOptions::default() }).unwrap();
    let rows = engine.session(&SessionOptions::default()).unwrap().logits(&stream).unwrap();
    let nll = |row: &[f32], target: u32| {
        let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        total.ln() - f64::from(row[target as usize])
    };
    let sum: f64 = rows.chunks(VOCAB as usize).zip(&stream[1..]).map(|(row, &t)| nll(row, t)).sum();
    let expected = sum / (stream.len() - 1) as f64;
    for context in ["24", "4", "1"] {
        let r = json(&["eval", str(&b), "--text", str(&text), "--context", context, "--device", "cpu", "--json"]);
        assert_eq!(r["tokens"], stream.len() - 1, "context {context}");
        let got = r["nll"].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-4, "context {context}: {got}, expected {expected}");
        assert!((r["perplexity"].as_f64().unwrap() - expected.exp()).abs() < 1e-2);
        assert!(r["against"].is_null());
    }
    let limited = json(&["eval", str(&b), "--text", str(&text), "--limit", "5", "--json"]);
    assert_eq!(limited["tokens"], 4);
}

#[test]
fn eval_against_another_bundle() {
    let tiny = Tiny::new();
    let (a, b) = (tiny.bundle(), tiny.other_bundle());
    let text = tiny.file("text", "H\u{e9} w! and more");
    let compare = |other| json(&["eval", str(&a), "--text", str(&text), "--against", str(other), "--json"])["against"].clone();
    let same = compare(&a);
    assert_eq!((same["kl"].as_f64(), same["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    let different = compare(&b);
    assert!(different["kl"].as_f64().unwrap() > 1e-3);
    assert_eq!(different["top1_agreement"], 1.0, "a smaller scale keeps the order");
    let ids = tiny.bundle_without_text();
    assert!(hotset(&["eval", str(&a), "--text", str(&text), "--against", str(&ids)]).error().contains("tokenizers"));
}

/// Texts are measured on their own; their mean is that of all predictions.
#[test]
fn eval_of_several_texts() {
    let tiny = Tiny::new();
    let (a, b) = (tiny.bundle(), tiny.other_bundle());
    let (short, long) = (tiny.file("short.txt", "H\u{e9}!"), tiny.file("long.txt", "a longer text, of many more tokens"));
    let eval = |texts: &[&str], more: &[&str]| {
        let texts = texts.iter().flat_map(|t| ["--text", t]);
        ["eval", str(&a), "--device", "cpu"].into_iter().chain(texts).chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |texts: &[&str], more: &[&str]| hotset(&eval(texts, more).iter().map(String::as_str).collect::<Vec<_>>());
    let json = |texts: &[&str], more: &[&str]| serde_json::from_str::<Value>(&run(texts, &[more, &["--json"]].concat()).ok()).unwrap();

    let both = json(&[str(&short), str(&long)], &["--against", str(&b)]);
    let mut sums = [0.0; 2];
    for (i, (name, file)) in [("short", &short), ("long", &long)].into_iter().enumerate() {
        let alone = json(&[str(file)], &["--against", str(&b)]);
        let (row, tokens) = (&both["texts"][i], alone["tokens"].as_f64().unwrap());
        assert_eq!(row["name"], name);
        for figure in ["tokens", "nll", "perplexity", "bits_per_byte", "against"] {
            assert_eq!((&row[figure], &alone["texts"][0][figure]), (&alone[figure], &alone[figure]), "{name} {figure}");
        }
        sums[0] += tokens;
        sums[1] += tokens * alone["nll"].as_f64().unwrap();
    }
    assert_eq!(both["tokens"].as_f64(), Some(sums[0]));
    assert!((both["nll"].as_f64().unwrap() - sums[1] / sums[0]).abs() < 1e-9);

    let table = run(&[str(&short), str(&long)], &["--against", str(&b)]).ok();
    let rows: Vec<&str> = table.lines().skip(1).map(|l| l.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["text", "short", "long", "all"], "{table}");
    assert!(table.contains("KL") && table.contains("difference"), "{table}");
    let two_lines = run(&[str(&long)], &[]).ok();
    assert_eq!(two_lines.lines().count(), 2, "one text is no table: {two_lines}");
    let empty = tiny.file("empty.txt", "");
    assert!(run(&[str(&long), str(&empty)], &[]).error().contains("empty.txt has fewer than two tokens"));
}

#[test]
fn bench_reports_what_was_asked_for() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let args = ["bench", str(&b), "-p", "30", "-n", "20", "--repeat", "2", "--threads", "1"];
    let r = json(&[&args[..], &["--json"]].concat());
    assert_eq!((r["prompt_tokens"].as_u64(), r["generate_tokens"].as_u64()), (Some(30), Some(20)));
    for figure in ["prefill_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds", "memory_bytes_per_second"] {
        assert!(r[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert_eq!(r["rounds"].as_array().unwrap().len(), 2);
    if cfg!(target_os = "linux") {
        assert!(r["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
    assert!(hotset(&args).ok().contains("decode"));
}

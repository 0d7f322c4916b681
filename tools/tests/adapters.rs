//! `hotset adapt` against the original implementations: logits of tiny base models with their adapters.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::{Path, PathBuf};

use hotset::{Adapter, Device, Engine, EngineOptions, PagingOptions, SessionOptions};
use support::{convert, deviation, golden, hotset, reference};

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters").join(case)
}

fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(folder("")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir());
    let cases: Vec<String> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(cases.len() >= 8, "{cases:?}");
    cases
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The base model's bundle and the adapter's file.
fn adapt(case: &str, out: &Path) -> (PathBuf, PathBuf) {
    let base = json(&folder(case).join("adapter_config.json"))["base_model_name_or_path"].as_str().unwrap().to_owned();
    let (bundle, target) = (convert(&golden(&base), out, "f32"), out.join("x.adapter"));
    let done = hotset(&["adapt", folder(case).to_str().unwrap(), "--base", bundle.to_str().unwrap(), "-o", target.to_str().unwrap()]);
    assert!(done.status.success(), "{case}: {}", String::from_utf8_lossy(&done.stderr));
    (bundle, target)
}

fn engine(bundle: &Path, device: Device) -> Engine {
    Engine::open(bundle, &EngineOptions { device, threads: Some(2), ..EngineOptions::default() }).unwrap()
}

fn with(adapter: Option<&Adapter>) -> SessionOptions {
    SessionOptions { context: Some(64), adapter: adapter.cloned(), ..SessionOptions::default() }
}

fn logits(engine: &Engine, adapter: Option<&Adapter>, tokens: &[u32]) -> Vec<f32> {
    engine.session(&with(adapter)).unwrap().logits(tokens).unwrap()
}

/// With the adapter a session computes what the original does; one beside it computes what the base model does.
#[test]
fn logits_agree_with_the_original_implementations() {
    let mut bad = Vec::new();
    for case in cases() {
        let out = tempfile::tempdir().unwrap();
        let (bundle, file) = adapt(&case, out.path());
        let (tokens, want) = reference(&folder(&case));
        let adapter = Adapter::open(&file).unwrap();
        for device in [Device::Reference, Device::Cpu] {
            let engine = engine(&bundle, device.clone());
            let plain = logits(&engine, None, &tokens);
            let mut adapted = engine.session(&with(Some(&adapter))).unwrap();
            let single: Vec<f32> = tokens.iter().flat_map(|&t| adapted.logits(&[t]).unwrap()).collect();
            for (how, got) in [("in one batch", logits(&engine, Some(&adapter), &tokens)), ("token by token", single)] {
                let deviation = deviation(&got, &want);
                if deviation.is_nan() || deviation > 2e-4 {
                    bad.push((case.clone(), device.clone(), how, deviation));
                }
            }
            assert_eq!(logits(&engine, None, &tokens), plain, "{case}: a session without the adapter changed");
            assert!(deviation(&plain, &want) > 0.01, "{case}: the adapter hardly matters");
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// The command line takes the file, and says so where it cannot.
#[test]
fn the_command_line_takes_adapters() {
    let out = tempfile::tempdir().unwrap();
    let (bundle, file) = adapt("mixlora", out.path());
    let run = |device: &str, more: &[&str]| {
        hotset(&[&["logits", bundle.to_str().unwrap(), "--tokens", "5,17,3", "--json", "--device", device], more].concat())
    };
    let (plain, adapted) = (run("cpu", &[]), run("cpu", &["--adapter", file.to_str().unwrap()]));
    assert!(plain.status.success() && adapted.status.success());
    assert_ne!(plain.stdout, adapted.stdout);
    let wrong = run("cpu", &["--adapter", bundle.to_str().unwrap()]);
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no adapter in this file"), "{}", String::from_utf8_lossy(&wrong.stderr));
    if support::gpu("the refusal of adapters") {
        let refused = run("gpu", &["--adapter", file.to_str().unwrap()]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("adapters run on the CPU only"));
    }
}

/// A wrong base, an option that is not known, a damaged folder: one sentence.
#[test]
fn adapters_that_do_not_fit_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let other = convert(&golden("mixtral"), out.path(), "f32");
    let refused = |folder: &Path, base: &Path| {
        let target = out.path().join("no.adapter");
        let done = hotset(&["adapt", folder.to_str().unwrap(), "--base", base.to_str().unwrap(), "-o", target.to_str().unwrap()]);
        assert!(!done.status.success() && !target.exists());
        String::from_utf8(done.stderr).unwrap()
    };
    let error = refused(&folder("mixlora"), &other);
    assert!(error.contains("adapter"), "{error}");

    let (base, copy) = (out.path().join("base"), out.path().join("copy"));
    std::fs::create_dir_all(&base).unwrap();
    std::fs::create_dir_all(&copy).unwrap();
    let bundle = convert(&golden("llama"), &base, "f32");
    std::fs::copy(folder("lora").join("adapter_model.safetensors"), copy.join("adapter_model.safetensors")).unwrap();
    let config = |key: &str, value: serde_json::Value| {
        let mut config = json(&folder("lora").join("adapter_config.json"));
        config[key] = value;
        std::fs::write(copy.join("adapter_config.json"), config.to_string()).unwrap();
    };
    for (key, value) in [
        ("use_dora", true.into()),
        ("r", 0.into()),
        ("r", 3.into()),
        ("peft_type", "IA3".into()),
        ("rank_pattern", serde_json::json!({"q_proj": 3})),
    ] {
        config(key, value);
        let error = refused(&copy, &bundle);
        assert!(error.lines().count() == 1 && error.starts_with("error: "), "{key}: {error}");
    }
    assert!(refused(out.path(), &bundle).contains("adapter_config.json is missing"));
}

/// Under a budget an adapter changes no other bit.
#[test]
fn a_budget_changes_no_bit() {
    let out = tempfile::tempdir().unwrap();
    let (bundle, file) = adapt("mixlora", out.path());
    let (tokens, _) = reference(&folder("mixlora"));
    let adapter = Adapter::open(&file).unwrap();
    let want = logits(&engine(&bundle, Device::Cpu), Some(&adapter), &tokens);
    let paging = PagingOptions { ram: Some(64 << 20), ..PagingOptions::default() };
    let options = EngineOptions { device: Device::Cpu, threads: Some(2), paging, ..EngineOptions::default() };
    assert_eq!(logits(&Engine::open(&bundle, &options).unwrap(), Some(&adapter), &tokens), want);
}

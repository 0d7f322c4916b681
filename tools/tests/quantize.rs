//! `hotset quantize`: of every family what converting to the codec gives; hot and cold experts compute what one pool does, on every device;
//! activations reach the rounding; nonsense is refused in a sentence.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod tiny;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotset::bundle::{Bundle, Manifest};
use hotset::codec::Codec;
use hotset::plan::Expert;
use hotset::profile::{Profile, Usage};
use hotset::{Device, Engine, EngineOptions, SessionOptions};
use serde_json::Value;
use support::{convert, deviation, golden, gpu, reference};
use tiny::{Tiny, hotset, str};

/// The demo bundle, in q4.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");

const TALE: &str = "Once upon a time there was a king who had twelve daughters. They slept in twelve beds in one room. <|endoftext|>
The old woman went to the well, and there she saw a frog sitting on the stone.
";

fn manifest(path: &Path) -> Manifest {
    let bundle = Bundle::open(path).unwrap();
    bundle.verify(|_| ()).unwrap();
    bundle.manifest().clone()
}

/// Rules and weights are those of `convert`, for every family: also which matrices are a router's or the vocabulary's.
#[test]
fn quantizing_and_converting_give_the_same_bytes() {
    let all = std::fs::read_dir(golden("olmoe").parent().unwrap()).unwrap().map(|f| f.unwrap().path());
    let mut cases = 0;
    for folder in all.filter(|f| f.join("config.json").exists()) {
        let out = tempfile::tempdir().unwrap();
        let source = convert(&folder, out.path(), "f32");
        let codec = ["q4", "q8", "f16", "mxfp4"][cases % 4];
        let (converted, quantized) = (manifest(&convert(&folder, out.path(), codec)), out.path().join("quantized"));
        hotset(&["quantize", str(&source), "-o", str(&quantized), "--codec", codec]).ok();
        let quantized = manifest(&quantized);
        assert_eq!(quantized.plan, converted.plan, "{}", folder.display());
        assert_eq!(quantized.tensors, converted.tensors, "{}", folder.display());
        assert_eq!(quantized.hashes, converted.hashes, "{}", folder.display());
        assert_eq!(quantized.fingerprint, converted.fingerprint);
        assert_eq!(quantized.provenance.history, ["converted to f32".to_owned(), format!("quantized to {codec}")]);
        assert_eq!(quantized.provenance.origin, Some(manifest(&source).fingerprint));
        cases += 1;
    }
    assert!(cases > 80, "{cases} checkpoints");
}

#[test]
fn a_checkpoint_is_converted() {
    let out = tempfile::tempdir().unwrap();
    let (converted, quantized) = (convert(&golden("olmoe"), out.path(), "q8"), out.path().join("quantized"));
    hotset(&["quantize", str(&golden("olmoe")), "-o", str(&quantized), "--codec", "q8"]).ok();
    assert_eq!(std::fs::read(converted).unwrap(), std::fs::read(quantized).unwrap());
}

#[test]
fn what_is_not_an_expert_may_have_a_codec_of_its_own() {
    let out = tempfile::tempdir().unwrap();
    let (source, target) = (convert(&golden("moduleformer"), out.path(), "f32"), out.path().join("quantized"));
    hotset(&["quantize", str(&source), "-o", str(&target), "--codec", "q4", "--dense-codec", "f16"]).ok();
    let manifest = manifest(&target);
    assert!(manifest.plan.pools.iter().all(|p| p.codec == Codec::Q4));
    let mut found = BTreeMap::new();
    for layout in manifest.tensors.values().filter_map(|t| t.layout()) {
        *found.entry(layout.codec.name()).or_insert(0) += 1;
    }
    assert!(found["f16"] > 2 && found["f32"] > 2 && found.len() == 2, "all but the routers: {found:?}");
}

/// A profile that says every other expert is used, beside `bundle`.
fn every_other(bundle: &Path) -> PathBuf {
    let (bundle, path) = (Bundle::open(bundle).unwrap(), bundle.with_extension("json"));
    let mut usage = Usage { tokens: 100, ..Usage::new(bundle.plan()) };
    for n in usage.steps.iter_mut().flat_map(|s| s.selections.iter_mut().step_by(2)) {
        *n = 100;
    }
    let mut profile = Profile::new(&bundle);
    profile.add("text", &usage).unwrap();
    std::fs::write(&path, profile.to_json().unwrap()).unwrap();
    path
}

/// Logits of a golden's tokens.
fn logits(bundle: &Path, device: &Device, tokens: &[u32]) -> Vec<f32> {
    let engine = Engine::open(bundle, &EngineOptions { device: device.clone(), ..EngineOptions::default() }).unwrap();
    // Some models see how long their conversation may become.
    engine.session(&SessionOptions { context: Some(tokens.len()), ..SessionOptions::default() }).unwrap().logits(tokens).unwrap()
}

/// Different kinds of routers, of streams, and of what there is beside routed experts.
const SPLIT: [&str; 9] =
    ["mixtral", "moduleformer", "qwen2_moe", "deepseek_v3", "gpt_oss", "coe_shared_gate", "blockffn", "dynamic_moe", "readme"];

#[test]
fn hot_and_cold_experts_compute_what_one_pool_does() {
    let devices = [Device::Reference, Device::Cpu].into_iter().chain(gpu("hot and cold experts").then_some(Device::Gpu));
    let devices: Vec<Device> = devices.collect();
    for case in SPLIT {
        let out = tempfile::tempdir().unwrap();
        let (source, target) = (convert(&golden(case), out.path(), "f32"), out.path().join("hot"));
        let profile = every_other(&source);
        let hot = ["--hot", "0.5", "--hot-codec", "f32"];
        let args = ["quantize", str(&source), "-o", str(&target), "--codec", "f16", "--dense-codec", "f32", "--profile", str(&profile)];
        hotset(&[&args[..], &hot[..]].concat()).ok();
        let (before, after) = (manifest(&source), manifest(&target));
        assert!(after.plan.pools.len() > before.plan.pools.len(), "{case}: something was split");
        let (codecs, records) = after.plan.pools.iter().map(|p| (p.codec, p.records)).collect::<(Vec<_>, Vec<_>)>();
        assert!(codecs.contains(&Codec::F32) && codecs.contains(&Codec::F16), "{case}");
        assert_eq!(records.iter().sum::<u32>(), before.plan.pools.iter().map(|p| p.records).sum::<u32>(), "{case}");
        assert_eq!(after.provenance.origin, None, "{case}: experts are others now");
        let (tokens, want) = reference(&golden(case));
        for device in &devices {
            // Half of the weights lack some digits; a wrong expert or a wrong input would show a hundred times as much.
            let deviation = deviation(&logits(&target, device, &tokens), &want);
            assert!(deviation < 0.02, "{case} on {device:?}: {deviation}");
        }
    }
}

/// The names of JSON's list.
fn names(json: &str) -> Vec<String> {
    let json: Value = serde_json::from_str(json).unwrap();
    json["rounded_plainly"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect()
}

#[test]
fn activations_decide_how_experts_are_rounded_that_have_seen_enough() {
    let tiny = Tiny::new();
    let (text, profile) = (tiny.file("tale.txt", TALE.repeat(20)), tiny.path("p.json"));
    hotset(&["profile", DEMO, "--text", str(&text), "-o", str(&profile), "--activations"]).ok();
    let usage = Profile::read(&std::fs::read_to_string(&profile).unwrap()).unwrap().total().unwrap();
    let (plain, aware) = (tiny.path("plain.hotset"), tiny.path("aware.hotset"));
    hotset(&["quantize", DEMO, "-o", str(&plain), "--codec", "mxfp4"]).ok();
    let said = hotset(&["quantize", DEMO, "-o", str(&aware), "--codec", "mxfp4", "--profile", str(&profile), "--json"]).ok();

    let seldom = usage.steps.iter().flat_map(|s| {
        let pool = &manifest(Path::new(DEMO)).plan.pools[s.pool as usize].name;
        let seldom = (0..).zip(&s.selections).filter(|(_, n)| **n < 64);
        seldom.map(move |(e, _): (usize, _)| format!("{}.{e}", pool.clone())).collect::<Vec<_>>()
    });
    let mut seldom: Vec<String> = seldom.collect();
    let mut said = names(&said);
    seldom.sort();
    said.sort();
    assert_eq!(said, seldom);
    assert!(!said.is_empty() && said.len() < 144, "{} of 144 experts", said.len());
    let [plain, aware] = [plain, aware].map(|p| Bundle::open(p).unwrap());
    for (pool, p) in plain.plan().pools.iter().enumerate() {
        for record in 0..p.records {
            let same = plain.record(pool, record) == aware.record(pool, record);
            let seldom = seldom.contains(&format!("{}.{record}", p.name));
            // Weights that come from the grid of q4 often leave no choice; those of a whole feed-forward expert always leave some.
            let free = !seldom && matches!(p.expert, Expert::Ffn { .. });
            assert!(same || !seldom, "{}.{record} has seen too little", p.name);
            assert!(!same || !free, "{}.{record} is rounded plainly", p.name);
        }
    }
}

#[test]
fn the_report_compares_codecs() {
    let tiny = Tiny::new();
    let (text, target) = (tiny.file("tale.txt", TALE), tiny.path("q.hotset"));
    let args = ["quantize", DEMO, "-o", str(&target), "--codec", "mxfp4", "--report", "--text", str(&text), "--device", "cpu", "--json"];
    let json: Value = serde_json::from_str(&hotset(&args).ok()).unwrap();
    let rows = json["report"].as_array().unwrap();
    let of = |i: usize, key: &str| rows[i][key].as_f64().unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((of(0, "kl"), of(0, "top1_agreement")), (0.0, 1.0), "the source against itself");
    assert!(of(1, "kl") > 1e-4 && of(1, "kl") < 0.1 && of(1, "bytes") < of(0, "bytes"));
    assert_eq!((of(1, "nll"), of(1, "bytes")), (of(2, "nll"), of(2, "bytes")), "this bundle is mxfp4, rounded plainly");
    let table = hotset(&args[..args.len() - 1]).ok();
    assert!(table.contains("source") && table.contains("mxfp4, plain rounding"), "{table}");
    // The bundles that were only measured are gone.
    assert_eq!(std::fs::read_dir(tiny.path(".")).unwrap().count(), 2);
}

#[test]
fn nonsense_is_refused_in_a_sentence() {
    let tiny = Tiny::new();
    let out = tempfile::tempdir().unwrap();
    let folder = golden("mixtral");
    let source = convert(&folder, out.path(), "f32");
    let dense = convert(&golden("stories260K"), tempfile::tempdir_in(out.path()).unwrap().keep().as_path(), "f32");
    let (profile, dense_profile) = (every_other(&source), every_other(&dense));
    let (text, demo) = (tiny.file("tale.txt", TALE), tiny.path("demo.json"));
    hotset(&["profile", DEMO, "--text", str(&text), "-o", str(&demo), "--activations"]).ok();
    let activations = std::fs::read(demo.with_extension("safetensors")).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        let json = tiny.file(&format!("{name}.json"), std::fs::read(&demo).unwrap());
        tiny.file(&format!("{name}.safetensors"), bytes);
        json
    };
    let cut = with("cut", &activations[..activations.len() / 2]);
    let mut bytes = activations.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let nan = with("nan", &bytes);
    let at = activations.windows(18).position(|w| w == b"hotset_activations").unwrap();
    let mut bytes = activations.clone();
    bytes[at] = b'x';
    let anonymous = with("anonymous", &bytes);
    let nowhere = folder.join("nothing");
    let target = tiny.path("out.hotset");
    let cases: [(&str, &[&str], &str); 14] = [
        (DEMO, &[], "q4 already, there is nothing to gain by q4"),
        (DEMO, &["--codec", "q8"], "nothing to gain by q8; quantize a bundle of higher precision"),
        (str(&folder), &["--dense-codec", "q8"], "convert it with --codec f16 first"),
        (str(&folder), &["--profile", str(&profile)], "convert it with --codec f16 first"),
        (str(&nowhere), &[], "cannot open"),
        (str(&source), &["--profile", str(&profile)], "no activations beside it"),
        (str(&source), &["--profile", str(&demo)], "profile of another bundle"),
        (str(&source), &["--profile", str(&profile), "--hot", "1.5"], "choose 0 to 1"),
        (str(&source), &["--profile", str(&profile), "--hot", "0"], "all experts would be stored in q4"),
        (str(&source), &["--profile", str(&profile), "--hot", "0.5", "--hot-codec", "q4"], "all experts would be stored in q4"),
        (str(&dense), &["--profile", str(&dense_profile), "--hot", "0.5"], "no feed-forward experts that could differ"),
        (DEMO, &["--codec", "mxfp4", "--profile", str(&cut)], "no usable activations"),
        (DEMO, &["--codec", "mxfp4", "--profile", str(&nan)], "holds the mean square NaN"),
        (DEMO, &["--codec", "mxfp4", "--profile", str(&anonymous)], "its metadata lacks hotset_activations"),
    ];
    for (source, args, says) in cases {
        let error = hotset(&[&["quantize", source, "-o", str(&target)], args].concat()).error();
        assert!(error.contains(says), "{source} {args:?}: {error}");
        assert!(!target.exists(), "{source} {args:?}");
    }
    for args in [&["--hot", "0.5"][..], &["--report"], &["--codec", "q5"]] {
        assert_eq!(hotset(&[&["quantize", DEMO, "-o", str(&target)], args].concat()).code, Some(2), "{args:?}");
    }
}

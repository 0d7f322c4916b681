//! `hotset convert` against the original implementations: the logits of converted tiny checkpoints.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::Path;
use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model, Output, RunOptions, Want};
use safetensors::SafeTensors;
use support::{convert, golden};

/// Largest difference from the original's logits, in units of their standard deviation.
fn deviation(case: &str, codec: &str) -> f32 {
    let folder = golden(case);
    let out = tempfile::tempdir().unwrap();
    let bundle = convert(&folder, out.path(), codec);
    let (tokens, want) = reference(&folder);
    let got = logits(&bundle, &tokens);
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let std = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / std
}

/// Every case agrees with its original to the precision of f32.
#[test]
fn logits_agree_with_the_original_implementations() {
    let mut cases: Vec<String> = std::fs::read_dir(golden(""))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().unwrap().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    cases.sort();
    assert!(cases.len() >= 23, "{cases:?}");
    let deviations: Vec<_> = cases.iter().map(|c| (c, deviation(c, "f32"))).collect();
    let bad: Vec<_> = deviations.iter().filter(|d| d.1.is_nan() || d.1 > 2e-4).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

/// Reduced precision stays close, and each step down is a little worse: the codec really is the one that was asked for.
#[test]
fn codecs_degrade_in_order() {
    let all: Vec<f32> = ["f32", "f16", "bf16", "q8", "q4"].iter().map(|c| deviation("mixtral", c)).collect();
    assert!(all.windows(2).all(|w| w[0] < w[1] * 1.5), "{all:?}");
    assert!(all[1] < 0.02 && all[4] > 0.02 && all[4] < 2.0, "{all:?}");
}

/// What a bundle says about itself.
#[test]
fn the_bundle_names_its_origin_and_is_intact() {
    let out = tempfile::tempdir().unwrap();
    let path = convert(&golden("qwen2_moe"), out.path(), "q8");
    let bundle = Bundle::open(path).unwrap();
    bundle.verify(|_| {}).unwrap();
    let origin = &bundle.manifest().provenance;
    assert_eq!((origin.name.as_str(), origin.family.as_str()), ("qwen2_moe", "qwen2_moe"));
    assert_eq!(origin.history, ["converted to q8"]);
    assert!(bundle.tokenizer().is_none());
    assert_eq!(bundle.plan().context, Some(128));
}

/// Logits of all positions.
fn logits(bundle: &Path, tokens: &[u32]) -> Vec<f32> {
    let model = ReferenceModel::new(Arc::new(Bundle::open(bundle).unwrap()));
    let mut run = model.start(RunOptions { context: tokens.len(), slide: false, stick_epsilon: 0.0 }).unwrap();
    match run.forward(tokens, Want::All).unwrap() {
        Output::Logits(logits) => logits,
        other => panic!("{other:?}"),
    }
}

/// Tokens and logits of the original implementation.
fn reference(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    let tokens = tokens.data().chunks_exact(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap());
    let logits = file.tensor("logits").unwrap();
    let logits = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tokens.collect(), logits.collect())
}

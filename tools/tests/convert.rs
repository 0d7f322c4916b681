//! `hotset convert` against the original implementations: the logits of converted tiny checkpoints.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::Path;

use hotset::bundle::Bundle;
use hotset::{Device, Engine, EngineOptions, SessionOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use support::{convert, golden, gpu};

/// The golden checkpoints, all of them.
fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir());
    let cases: Vec<String> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(cases.len() >= 23, "{cases:?}");
    cases
}

/// Largest difference between logits, in units of the standard deviation of those that should be.
fn deviation(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let std = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / std
}

/// Every case agrees with its original on every executor, read in one batch and token by token.
#[test]
fn logits_agree_with_the_original_implementations() {
    let (out, devices) = (tempfile::tempdir().unwrap(), devices());
    let mut bad = Vec::new();
    for case in cases() {
        let bundle = convert(&golden(&case), out.path(), "f32");
        let (tokens, want) = reference(&golden(&case));
        for (device, tolerance) in &devices {
            let engine =
                Engine::open(&bundle, &EngineOptions { device: device.clone(), threads: Some(2), ..EngineOptions::default() }).unwrap();
            // Rotations may depend on the room a conversation has; the originals had room for these tokens.
            let session = || engine.session(&SessionOptions { context: Some(tokens.len()), ..SessionOptions::default() }).unwrap();
            let mut one_by_one = session();
            let single = tokens.iter().flat_map(|&t| one_by_one.logits(&[t]).unwrap()).collect();
            for (how, got) in [("in one batch", session().logits(&tokens).unwrap()), ("token by token", single)] {
                let deviation = deviation(&got, &want);
                if deviation.is_nan() || deviation > *tolerance {
                    bad.push((case.clone(), device, how, deviation));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// The executors of this machine and the deviation each may have.
fn devices() -> Vec<(Device, f32)> {
    let mut devices = vec![(Device::Reference, 2e-4), (Device::Cpu, 2e-4)];
    if gpu("logits") {
        devices.push((Device::Gpu, 1e-3));
    }
    devices
}

/// Reduced precision stays close, and each step down is a little worse: the codec really is the one that was asked for.
#[test]
fn codecs_degrade_in_order() {
    let out = tempfile::tempdir().unwrap();
    let (tokens, want) = reference(&golden("mixtral"));
    let off = |codec: &&str| deviation(&logits(&convert(&golden("mixtral"), out.path(), codec), &tokens), &want);
    let all: Vec<f32> = ["f32", "f16", "bf16", "q8", "q4"].iter().map(off).collect();
    assert!(all.windows(2).all(|w| w[0] < w[1] * 1.5), "{all:?}");
    assert!(all[1] < 0.02 && all[4] > 0.02 && all[4] < 2.0, "{all:?}");
}

/// A matrix too large to encode at once is put together from pieces, the last of them not full.
#[test]
fn large_matrices_are_whole() {
    const VOCAB: usize = 70_001;
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(golden("mixtral_fused").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let width = file.tensor("model.norm.weight").unwrap().shape()[0];
    let table: Vec<f32> = (0..VOCAB * width).map(|i| (i % 1009) as f32 - 504.0).collect();
    let table_bytes: &[u8] = bytemuck::cast_slice(&table);
    let large = TensorView::new(Dtype::F32, vec![VOCAB, width], table_bytes).unwrap();
    let tensors = file.iter().map(|(n, t)| (n, if n == "model.embed_tokens.weight" { large.clone() } else { t }));
    safetensors::serialize_to_file(tensors, None, &source.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(golden("mixtral_fused").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = VOCAB.into();
    std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    let bundle = Bundle::open(convert(source.path(), out.path(), "f32")).unwrap();
    let stored = bundle.matrix(&bundle.plan().embedding.table).unwrap();
    let mut row = vec![0.0; width];
    for (r, want) in table.chunks(width).enumerate() {
        stored.row(r, &mut row);
        assert_eq!(row, want, "row {r}");
    }
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

/// Logits of all positions, by the reference executor.
fn logits(bundle: &Path, tokens: &[u32]) -> Vec<f32> {
    let engine = Engine::open(bundle, &EngineOptions { device: Device::Reference, threads: None, ..EngineOptions::default() }).unwrap();
    engine.session(&SessionOptions::default()).unwrap().logits(tokens).unwrap()
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

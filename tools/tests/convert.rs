//! `hotset convert` against the original implementations: the logits of converted tiny checkpoints.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::Path;

use hotset::bundle::{Bundle, RecordView};
use hotset::codec::{Codec, Matrix};
use hotset::{Device, Engine, EngineOptions, SessionOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use support::{convert, deviation, golden, gpu, reference};

/// The golden checkpoints, all of them.
fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir());
    let cases: Vec<String> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(cases.len() >= 23, "{cases:?}");
    cases
}

/// Every case agrees with its original on every executor, read in one batch and token by token. `GOLDEN=hunyuan` checks the cases of that
/// beginning alone; with `--nocapture` deviations are shown.
#[test]
fn logits_agree_with_the_original_implementations() {
    let (out, devices) = (tempfile::tempdir().unwrap(), devices());
    let mut bad = Vec::new();
    let beginning = std::env::var("GOLDEN").unwrap_or_default();
    let cases: Vec<String> = cases().into_iter().filter(|c| c.starts_with(&beginning)).collect();
    assert!(!cases.is_empty(), "no case begins with {beginning:?}");
    for case in cases {
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
                eprintln!("{case}: {device:?} {how}: {deviation:.1e}");
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

/// Experts that were published in mxfp4 keep every value, unless another codec is asked for.
#[test]
fn experts_published_in_mxfp4_are_kept() {
    let (out, source) = (tempfile::tempdir().unwrap(), golden("gpt_oss_mxfp4"));
    let target = out.path().join("kept.hotset");
    let done = support::hotset(&["convert", source.to_str().unwrap(), "-o", target.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let kept = Bundle::open(target).unwrap();
    assert_eq!(kept.manifest().provenance.history, ["converted to q4, experts kept in mxfp4"]);
    let exact = Bundle::open(convert(&source, out.path(), "f32")).unwrap();
    for (i, pool) in kept.plan().pools.iter().enumerate() {
        assert_eq!(pool.codec, Codec::Mxfp4);
        (0..pool.records).for_each(|r| assert_eq!(values(&kept, i, r), values(&exact, i, r), "{} {r}", pool.name));
    }
    let q8 = Bundle::open(convert(&source, out.path(), "q8")).unwrap();
    assert!(q8.plan().pools.iter().all(|p| p.codec == Codec::Q8));
}

/// Experts with the same weights under several names are stored once, and every name still leads to its weights.
#[test]
fn equal_experts_are_stored_once() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(golden("mixtral").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // In the first layer experts 0 and 2 are one, in the second 1 and 2 differ from each other in one matrix alone.
    let merged = |name: &str| {
        let copied = [("layers.0.block_sparse_moe.experts.2", "layers.0.block_sparse_moe.experts.0")];
        let almost =
            ["w1", "w2"].map(|w| (format!("layers.1.block_sparse_moe.experts.2.{w}"), format!("layers.1.block_sparse_moe.experts.1.{w}")));
        let all = copied.iter().map(|(a, b)| (*a, *b)).chain(almost.iter().map(|(a, b)| (a.as_str(), b.as_str())));
        all.fold(name.to_owned(), |name, (to, from)| name.replace(to, from))
    };
    let tensors: Vec<_> = file.names().into_iter().map(|n| (n, file.tensor(&merged(n)).unwrap())).collect();
    safetensors::serialize_to_file(tensors, None, &source.path().join("model.safetensors")).unwrap();
    std::fs::copy(golden("mixtral").join("config.json"), source.path().join("config.json")).unwrap();
    let shared = Bundle::open(convert(source.path(), out.path(), "f32")).unwrap();
    let pools = &shared.plan().pools;
    assert_eq!((pools[0].records, pools[0].alias.as_deref()), (3, Some(&[Some(0), Some(1), Some(0), Some(2)][..])));
    assert_eq!((pools[1].records, &pools[1].alias), (4, &None));
    let whole = Bundle::open(convert(&golden("mixtral"), out.path(), "f32")).unwrap();
    for (id, original) in [(0, 0), (1, 1), (2, 0), (3, 3)] {
        assert_eq!(values(&shared, 0, pools[0].record_of(id).unwrap()), values(&whole, 0, original), "expert {id}");
    }
}

/// Every matrix of a record, row by row.
fn values(bundle: &Bundle, pool: usize, record: u32) -> Vec<Vec<f32>> {
    let layout = bundle.record_layout(pool);
    let view = RecordView::new(layout, bundle.record(pool, record)).unwrap();
    let row = |(matrix, r): (Matrix<'_>, usize)| {
        let mut row = vec![0.0; matrix.layout().cols];
        matrix.row(r, &mut row);
        row
    };
    let matrices = layout.matrices.iter().map(|m| view.matrix(m.0).unwrap());
    matrices.flat_map(|m| (0..m.layout().rows).map(move |r| (m, r))).map(row).collect()
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

//! Tests: the candle models against the original implementations and the engine, and what a conversion keeps.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::{Path, PathBuf};

use candle_core::{D, Device, Tensor};
use hotset::{Engine, EngineOptions, SessionOptions};
use safetensors::SafeTensors;

use super::*;
use crate::training::{Batches, Model, Schedule};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// Tokens `[1, T]` and logits `[T, V]` of the original implementation.
fn reference(case: &str) -> (Tensor, Tensor) {
    let bytes = std::fs::read(golden(case).join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, logits) = (file.tensor("tokens").unwrap(), file.tensor("logits").unwrap());
    let ids: Vec<u32> = tokens.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let values: Vec<f32> = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), Tensor::from_vec(values, logits.shape(), &Device::Cpu).unwrap())
}

/// Largest difference, in units of the standard deviation of what should be.
fn deviation(got: &Tensor, want: &Tensor) -> f32 {
    let scalar = |t: Tensor| t.to_scalar::<f32>().unwrap();
    let mean = want.mean_all().unwrap();
    let variance = scalar(want.broadcast_sub(&mean).unwrap().sqr().unwrap().mean_all().unwrap());
    scalar((got - want).unwrap().abs().unwrap().max_all().unwrap()) / variance.sqrt()
}

/// A dense golden checkpoint.
fn dense(case: &str) -> (Shape, Weights) {
    let checkpoint = Checkpoint::open(&golden(case)).unwrap();
    let (_, llama) = import::import(checkpoint.config(), checkpoint.tensors()).unwrap();
    (Shape::of(&llama).unwrap(), Weights::read(&checkpoint, checkpoint.tensors().keys()).unwrap())
}

/// A published MoE.
fn moe(folder: &Path) -> Moe {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let config = checkpoint.config();
    let size = |key: &str| config.get(key).and_then(serde_json::Value::as_u64).map(|n| usize::try_from(n).unwrap());
    let number = |key: &str| config[key].as_f64().unwrap();
    let (_, import) = import::import(config, checkpoint.tensors()).unwrap();
    let rotation = &import.plan.rotations[0];
    let shape = Shape {
        width: import.plan.width as usize,
        layers: size("num_hidden_layers").unwrap(),
        heads: size("num_attention_heads").unwrap(),
        kv_heads: size("num_key_value_heads").unwrap(),
        head_dim: rotation.frequencies.len() * 2,
        hidden: 0,
        vocab: import.plan.vocab as usize,
        tied: config["tie_word_embeddings"].as_bool().unwrap(),
        eps: number("rms_norm_eps"),
        frequencies: rotation.frequencies.clone(),
        amplitude: rotation.amplitude,
        context: None,
    };
    let hidden = size("intermediate_size").unwrap();
    let heads = |experts| HeadSplit { experts, top_k: size("top_k_attn").unwrap(), scale: number("scale_factor_attn") };
    let split = Split {
        experts: size("num_local_experts").unwrap(),
        top_k: size("num_experts_per_tok").unwrap(),
        residual: size("intermediate_size_residual").unwrap_or(0) / hidden,
        scale: number("scale_factor"),
        bias: config["add_rescale_bias"].as_bool().unwrap(),
        attention: size("attn_experts").map(heads),
    };
    Moe::load(&shape, &split, &Weights::read(&checkpoint, checkpoint.tensors().keys()).unwrap()).unwrap()
}

#[test]
fn dense_logits_agree_with_the_original_implementation() {
    for case in ["llama", "stories260K"] {
        let (shape, weights) = dense(case);
        let (tokens, want) = reference(case);
        let (got, _) = Dense::load(&shape, &weights).unwrap().forward(&tokens).unwrap();
        assert!(deviation(&got, &want) < 2e-4, "{case}: {}", deviation(&got, &want));
    }
}

#[test]
fn moe_logits_agree_with_the_original_implementation() {
    // The last with a window of four tokens, which the first four do not notice.
    let cases = [("", 12), ("_residual", 12), ("_attn", 12), ("_attn_s1", 12), ("_attn_all", 12), ("_attn_window", 4)];
    for (case, rows) in cases.map(|(suffix, rows)| (format!("llama_moe_v2{suffix}"), rows)) {
        let (tokens, want) = reference(&case);
        let rows = rows.min(tokens.dim(1).unwrap());
        let (got, _) = moe(&golden(&case)).forward(&tokens).unwrap();
        let deviation = deviation(&got.narrow(0, 0, rows).unwrap(), &want.narrow(0, 0, rows).unwrap());
        assert!(deviation < 2e-4, "{case}: {deviation}");
    }
}

/// The first `n` tokens of the reference text, again and again in windows of `window`.
fn batches(case: &str, window: usize) -> Vec<Batch> {
    let tokens: Vec<u32> = reference(case).0.flatten_all().unwrap().to_vec1().unwrap();
    Batches::new(&tokens, Some(1), window).unwrap().in_order(4).unwrap()
}

fn options(experts: usize, top_k: usize) -> Options {
    let split = Split { experts, top_k, residual: 0, scale: experts as f64 / top_k as f64, bias: false, attention: None };
    Options { split, start: Start::Clustered, calibration: 0, window: 8, healing: None, seed: 1 }
}

/// What the published format has no place for.
#[test]
fn biases_are_refused() {
    let checkpoint = Checkpoint::open(&golden("llama_bias_old")).unwrap();
    let (_, llama) = import::import(checkpoint.config(), checkpoint.tensors()).unwrap();
    assert!(Shape::of(&llama).unwrap_err().to_string().contains("attention_bias"));
}

/// With everything active, evenly weighed and scaled by the number of experts, nothing is lost; whatever the partition.
#[test]
fn all_experts_are_the_dense_layer() {
    let (shape, weights) = dense("llama");
    let dense = Dense::load(&shape, &weights).unwrap();
    let text = batches("llama", 8);
    let want = dense.forward(&text[0].inputs).unwrap().0;
    for (attention, residual) in [(None, 0), (None, 2), (Some(2), 0), (Some(6), 0)] {
        let experts = 4 - residual;
        let mut options = options(experts, experts);
        options.split.scale = experts as f64;
        options.split.residual = residual;
        options.split.attention = attention.map(|n| HeadSplit { experts: n, top_k: n, scale: n as f64 });
        options.split.check(&shape).unwrap();
        let mut cut = cut(&dense, &weights, &shape, &options, &text, &mut Random(2)).unwrap();
        // Routers that see no difference.
        for (_, gate) in cut.0.iter_mut().filter(|(name, _)| name.ends_with(".gate.weight")) {
            *gate = gate.zeros_like().unwrap();
        }
        let got = Moe::load(&shape, &options.split, &cut).unwrap().forward(&text[0].inputs).unwrap().0;
        assert!(deviation(&got, &want) < 2e-5, "{attention:?}, {residual}: {}", deviation(&got, &want));
    }
}

/// The balance loss is smallest where experts are used alike, and pulls routers there.
#[test]
fn the_balance_loss_has_a_gradient() {
    let (shape, weights) = dense("llama");
    let (text, options) = (batches("llama", 8), options(4, 2));
    let dense = Dense::load(&shape, &weights).unwrap();
    let cut = cut(&dense, &weights, &shape, &options, &text, &mut Random(2)).unwrap();
    let (weights, variables) = cut.trainable(|_| true).unwrap();
    let loss = || Moe::load(&shape, &options.split, &weights).unwrap().forward(&text[0].inputs).unwrap().1.unwrap();
    let before = loss().to_scalar::<f32>().unwrap();
    assert!(before > 2.0, "{before}: two experts of four at best");
    let gradients = loss().backward().unwrap();
    let gate = weights.get("model.layers.0.block_sparse_moe.gate.weight").unwrap();
    let length = gradients.get(&gate).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(length > 1e-8, "{length}");
    let mut optimiser = crate::training::Optimiser::new(variables, Schedule { steps: 20, rate: 1e-2, decay: 0.0 }).unwrap();
    (0..20).for_each(|_| optimiser.step(&loss()).unwrap());
    let after = loss().to_scalar::<f32>().unwrap();
    assert!(after < before, "{before} to {after}");
}

/// After alignment, a layer adds to the stream what it did in the dense model, channel by channel on average.
#[test]
fn alignment_restores_moments() {
    let (shape, weights) = dense("llama");
    let text = &batches("llama", 8)[..1];
    let dense = Dense::load(&shape, &weights).unwrap();
    let mut options = options(4, 1);
    options.split.bias = true;
    options.split.attention = Some(HeadSplit { experts: 2, top_k: 1, scale: 1.0 });
    let mut moe = cut(&dense, &weights, &shape, &options, text, &mut Random(2)).unwrap();
    align::align(&dense, &shape, &options.split, &mut moe, text).unwrap();
    let model = Moe::load(&shape, &options.split, &moe).unwrap();
    let (a, b) = (&dense.layers[0], &model.layers[0]);
    let (x, positions) = (dense.embed(&text[0].inputs).unwrap(), dense.positions(&text[0].inputs).unwrap());
    let attended = [a.attend(&x, &positions).unwrap().0, b.attend(&x, &positions).unwrap().0];
    let ffn = [a.ffn.forward(&a.ffn_input(&attended[0]).unwrap()).unwrap(), b.ffn.forward(&b.ffn_input(&attended[1]).unwrap()).unwrap().0];
    for added in [attended.map(|y| (y - &x).unwrap()), ffn] {
        let [want, got] = added.map(|t| [t.mean(0).unwrap(), t.var(0).unwrap()]);
        for (got, want) in got.iter().zip(&want) {
            assert!(deviation(got, want) < 1e-3, "{}", deviation(got, want));
        }
    }
}

/// Words in an order that has something to learn.
fn story() -> String {
    let (names, things) = (["Lily", "Tim", "Tom", "Mia"], ["a big red ball", "a little dog", "the park", "her mom"]);
    let line = |i: usize| format!("Once upon a time, {} saw {}. They played all day and were very happy.", names[i % 4], things[i / 4 % 4]);
    (0..40).map(line).collect::<Vec<_>>().join("\n<|endoftext|>\n")
}

struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: usize, _: f64) {}
    fn held_out(&mut self, _: usize, _: f64) -> Result<()> {
        Ok(())
    }
}

/// From a checkpoint folder to another, which the importer takes and the engine runs to the same logits; healing makes it better.
#[test]
fn what_is_written_runs() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("story.txt");
    std::fs::write(&text, story()).unwrap();
    let source = Source::open(&golden("stories260K"), &[text], 4096).unwrap();
    let heads = HeadSplit { experts: 8, top_k: 6, scale: 6.0 };
    for (name, bias, residual, attention) in [("plain", false, 0, None), ("all", true, 1, Some(heads))] {
        let mut options = options(4 - residual, 2);
        (options.split.bias, options.split.residual, options.split.attention) = (bias, residual, attention);
        (options.calibration, options.window) = (1024, 64);
        options.healing = Some(Healing { schedule: Schedule { steps: 12, rate: 2e-3, decay: 0.0 }, batch: 4 });
        let out = dir.path().join(name);
        let losses = source.convert(&options, Folder::begin(&out).unwrap(), &mut Silent, &AtomicBool::new(false)).unwrap();
        let healed = losses.healed.unwrap();
        assert!(losses.dense < losses.cut && healed < losses.cut - 0.5, "{} to {} to {healed}", losses.dense, losses.cut);

        let checkpoint = Checkpoint::open(&out).unwrap();
        let (family, import) = import::import(checkpoint.config(), checkpoint.tensors()).unwrap();
        assert_eq!(family, "llama_moe_v2");
        let tokenizer = checkpoint.tokenizer(import.plan.vocab).unwrap();
        assert!(tokenizer.is_some());
        let target = dir.path().join(format!("{name}.hotset"));
        let write = import::Options {
            target: &target,
            codec: Some(hotset::codec::Codec::F32),
            family,
            stop: &AtomicBool::new(false),
            progress: &|_, _| {},
        };
        import::write(&checkpoint, import, tokenizer, &write).unwrap();
        let engine = Engine::open(&target, &EngineOptions { device: hotset::Device::Cpu, ..EngineOptions::default() }).unwrap();
        let tokens: Vec<u32> = reference("stories260K").0.flatten_all().unwrap().to_vec1().unwrap();
        let got = engine.session(&SessionOptions::default()).unwrap().logits(&tokens).unwrap();
        let want = moe(&out).forward(&Tensor::new(&tokens[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap().0;
        let got = Tensor::from_vec(got, want.shape(), &Device::Cpu).unwrap();
        assert!(deviation(&got, &want) < 2e-4, "{name}: {}", deviation(&got, &want));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5, "a text, two folders and two bundles; nothing half-written");
}

/// Clusters know more than chance.
#[test]
fn clustered_routers_lose_less_than_random_ones() {
    let (shape, weights) = dense("stories260K");
    let dense = Dense::load(&shape, &weights).unwrap();
    let text = batches("stories260K", 16);
    let loss = |start| {
        let options = Options { start, ..options(4, 2) };
        let moe = cut(&dense, &weights, &shape, &options, &text, &mut Random(3)).unwrap();
        held_out(&Moe::load(&shape, &options.split, &moe).unwrap(), &text).unwrap()
    };
    let (clustered, random) = (loss(Start::Clustered), loss(Start::Random));
    assert!(clustered < random - 0.3, "{clustered} against {random}");
}

#[test]
fn same_seed_same_cut() {
    let (shape, weights) = dense("llama");
    let (dense, text) = (Dense::load(&shape, &weights).unwrap(), batches("llama", 8));
    let gate = |seed| {
        let moe = cut(&dense, &weights, &shape, &options(4, 2), &text, &mut Random(seed)).unwrap();
        moe.get("model.layers.1.block_sparse_moe.gate.weight").unwrap().flatten(0, D::Minus1).unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(gate(5), gate(5));
}

//! Models that were put together differently but compute the same.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::collections::BTreeMap;

use hotset::{Device, Engine, EngineOptions, SessionOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use support::{convert, golden};

const TOKENS: [u32; 9] = [5, 17, 3, 3, 40, 8, 17, 60, 2];

/// A checkpoint in memory.
#[derive(Clone)]
struct Checkpoint {
    config: Value,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    /// Matrices one below the other.
    fn rows(parts: &[Tensor]) -> Tensor {
        let shape = vec![parts.iter().map(|p| p.shape[0]).sum(), parts[0].shape[1]];
        Tensor { shape, values: parts.iter().flat_map(|p| p.values.clone()).collect() }
    }

    /// Matrices side by side.
    fn columns(parts: &[Tensor]) -> Tensor {
        let shape = vec![parts[0].shape[0], parts.iter().map(|p| p.shape[1]).sum()];
        let row = |r: usize| parts.iter().flat_map(move |p| p.values[r * p.shape[1]..][..p.shape[1]].to_vec());
        Tensor { values: (0..shape[0]).flat_map(row).collect(), shape }
    }
}

impl Checkpoint {
    /// A golden checkpoint.
    fn open(case: &str) -> Checkpoint {
        let bytes = std::fs::read(golden(case).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, t): (String, TensorView<'_>)| {
            let values = match t.dtype() {
                Dtype::F32 => t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::BF16 => t.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
                other => panic!("{name} holds {other}"),
            };
            (name, Tensor { shape: t.shape().to_vec(), values })
        };
        let config = std::fs::read_to_string(golden(case).join("config.json")).unwrap();
        Checkpoint { config: serde_json::from_str(&config).unwrap(), tensors: file.tensors().into_iter().map(tensor).collect() }
    }

    fn set(&mut self, keys: Value) {
        self.config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    }

    /// Takes a tensor out.
    fn take(&mut self, name: &str) -> Tensor {
        self.tensors.remove(name).unwrap()
    }

    fn put(&mut self, name: &str, tensor: Tensor) {
        assert!(self.tensors.insert(name.to_owned(), tensor).is_none(), "{name} is there already");
    }

    fn fill(&mut self, name: &str, value: f32) {
        self.tensors.get_mut(name).unwrap().values.fill(value);
    }

    /// The logits of its conversion, on the reference executor.
    fn logits(&self) -> Vec<f32> {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes: BTreeMap<&str, Vec<u8>> =
            self.tensors.iter().map(|(n, t)| (n.as_str(), t.values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
        let views = self.tensors.iter().map(|(n, t)| (n, TensorView::new(Dtype::F32, t.shape.clone(), &bytes[n.as_str()]).unwrap()));
        safetensors::serialize_to_file(views, None, &source.path().join("model.safetensors")).unwrap();
        std::fs::write(source.path().join("config.json"), self.config.to_string()).unwrap();
        let bundle = convert(source.path(), out.path(), "f32");
        let options = EngineOptions { device: Device::Reference, ..EngineOptions::default() };
        Engine::open(&bundle, &options).unwrap().session(&SessionOptions::default()).unwrap().logits(&TOKENS).unwrap()
    }
}

fn assert_close(a: &[f32], b: &[f32]) {
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(a.len() == b.len() && most < 2e-5, "{most}");
}

fn differ(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-2)
}

/// A dense layer cut into experts, all of which are taken with the same weight, is that layer again when the scale makes good for the
/// weight.
#[test]
fn all_pieces_of_a_dense_layer_are_the_layer() {
    let mut cut = Checkpoint::open("llama_moe_v2");
    cut.set(json!({ "num_experts_per_tok": 4, "scale_factor": 4.0 }));
    let mut dense = cut.clone();
    dense.set(json!({ "num_moe_contract_layers": 1 }));
    for layer in 0..2 {
        let prefix = format!("model.layers.{layer}.block_sparse_moe");
        cut.fill(&format!("{prefix}.gate.weight"), 0.0);
        dense.take(&format!("{prefix}.gate.weight"));
        let mut pieces =
            |part: &str| -> Vec<Tensor> { (0..4).map(|e| dense.take(&format!("{prefix}.experts.{e}.{part}.weight"))).collect() };
        let whole = [("w1", Tensor::rows(&pieces("w1"))), ("w3", Tensor::rows(&pieces("w3"))), ("w2", Tensor::columns(&pieces("w2")))];
        whole.into_iter().for_each(|(part, tensor)| dense.put(&format!("{prefix}.{part}.weight"), tensor));
    }
    let expected = dense.logits();
    assert_close(&cut.logits(), &expected);
    cut.set(json!({ "num_experts_per_tok": 3 }));
    assert!(differ(&cut.logits(), &expected), "a piece that is left out shows");
}

/// The same of attention: every group of heads with its own copy of its keys and values, all of them taken by every token.
#[test]
fn all_head_groups_of_an_attention_are_the_attention() {
    let mut cut = Checkpoint::open("llama_moe_v2_attn_s1");
    cut.set(json!({ "top_k_attn": 2, "scale_factor_attn": 2.0 }));
    let mut dense = cut.clone();
    dense.set(json!({ "use_attn_moe": false }));
    for layer in 0..2 {
        let prefix = format!("model.layers.{layer}.self_attn");
        cut.fill(&format!("{prefix}.gate.weight"), 0.0);
        dense.take(&format!("{prefix}.gate.weight"));
        for part in ["q", "k", "v", "o"] {
            let pieces: Vec<Tensor> = (0..2).map(|e| dense.take(&format!("{prefix}.{part}_proj.{e}.weight"))).collect();
            let whole = if part == "o" { Tensor::columns(&pieces) } else { Tensor::rows(&pieces) };
            dense.put(&format!("{prefix}.{part}_proj.weight"), whole);
        }
    }
    let expected = dense.logits();
    assert_close(&cut.logits(), &expected);
    cut.set(json!({ "top_k_attn": 1 }));
    assert!(differ(&cut.logits(), &expected), "a group that is left out shows");
}

/// Tokens that skip every step are as if the steps were not there.
#[test]
fn skipping_everything_does_nothing() {
    let logits = |steps: u32, skip: bool| {
        let mut model = Checkpoint::open("mom_gru_k1");
        model.set(json!({ "depth_per_chunk": steps }));
        for half in ["mot_attn", "mot_ffn"] {
            let bias = model.tensors.get_mut(&format!("transformer.h.1.{half}.router.router.bias")).unwrap();
            *bias.values.last_mut().unwrap() = if skip { 1e4 } else { -1e4 };
        }
        model.logits()
    };
    let skipped = logits(1, true);
    assert_close(&logits(5, true), &skipped);
    assert!(differ(&logits(1, false), &skipped), "a step that is not skipped shows");
}

/// One iteration of a chain with both residuals is the normalised input and the experts' answer to it, added to the stream; a second
/// whose experts answer nothing changes nothing.
#[test]
fn an_iteration_that_adds_nothing_changes_nothing() {
    let mut once = Checkpoint::open("coe_igate");
    once.set(json!({ "inner_iter": 1 }));
    for layer in 0..2 {
        once.take(&format!("model.layers.{layer}.mlp.gate.1.weight"));
    }
    let mut twice = Checkpoint::open("coe_igate");
    assert!(differ(&once.logits(), &twice.logits()), "the second iteration shows");
    for model in [&mut once, &mut twice] {
        let downs: Vec<String> = model.tensors.keys().filter(|n| n.contains(".mlp.") && n.contains("down_proj")).cloned().collect();
        downs.iter().for_each(|name| model.fill(name, 0.0));
    }
    assert_close(&once.logits(), &twice.logits());
}

//! Tests: what was there stays, what is new learns, and what cannot grow is refused.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::PathBuf;

use candle_core::{DType, Device};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::import;
use crate::training::{Measured, Schedule, Texts};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// A golden model and a text of tokens in an order that can be learned.
fn subject(case: &str) -> Subject {
    let checkpoint = Checkpoint::open(&golden(case)).unwrap();
    let model = Interpreter::new(import::import(checkpoint.config(), checkpoint.tensors()).unwrap().1).unwrap();
    let token = |i: u32| (i * i % 7 + i % 3) * 3;
    let texts = Texts { bos: None, learned: (0..900).map(token).collect(), held: (0..100).map(token).collect() };
    Subject { checkpoint, model, texts }
}

fn grow(subject: &Subject, attention: usize, ffn: usize) -> failure::Result<growth::Growth> {
    growth(&subject.checkpoint, subject.model.import(), Added { attention, ffn })
}

struct Notes(Vec<Measured>);

impl Progress for Notes {
    fn step(&mut self, _: usize, _: f64) {}
    fn check(&mut self, _: usize, measured: &Measured) -> failure::Result<()> {
        self.0.push(measured.clone());
        Ok(())
    }
}

fn run(subject: &Subject, target: &Path, full: bool) -> Vec<Measured> {
    let schedule = Schedule { steps: 24, rate: 5e-3, decay: 0.0 };
    let settings = Settings { schedule, batch: 4, window: 12, seed: 3, full, every: 100, resume: false, device: Device::Cpu };
    let options = Options { experts: 2, attention_experts: 2, weight: 0.1, settings };
    let mut notes = Notes(Vec::new());
    extend(subject, &options, target, &mut notes, &AtomicBool::new(false)).unwrap();
    notes.0
}

/// One of each way in which experts are stored.
const CASES: [&str; 7] = ["moduleformer", "moduleformer_gmm", "moduleformer_linear_tied_bin", "jetmoe", "mixtral", "olmoe", "granitemoe"];

#[test]
fn what_was_there_stays_and_the_rest_learns() {
    for case in CASES {
        let (subject, dir) = (subject(case), TempDir::new().unwrap());
        let target = dir.path().join("out");
        let checks = run(&subject, &target, false);
        let (before, after) = (checks[0].loss, checks.last().unwrap().loss);
        assert!(after < before - 0.05, "{case}: {before} to {after}");

        let written = Checkpoint::open(&target).unwrap();
        let (_, grown) = import::import(written.config(), written.tensors()).unwrap();
        for (new, old) in grown.plan.pools.iter().zip(&subject.model.import().plan.pools) {
            assert_eq!(new.records, old.records + 2, "{case}: {}", new.name);
        }
        let mut appended = 0;
        for (name, old) in subject.checkpoint.tensors() {
            let (Some(new), old) = (written.tensors().get(name), subject.checkpoint.bytes(old)) else {
                assert!(case.ends_with("bin") && name == "lm_head.weight", "{case}: {name} is lost");
                continue;
            };
            let new = written.bytes(new);
            assert!(new.starts_with(&old), "{case}: {name} has changed");
            appended += usize::from(new.len() > old.len());
        }
        assert!(appended >= 2, "{case}: routers have grown at least");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no state is left");
    }
}

/// Logits `[T, V]` of a model for a few tokens.
fn logits(model: &Interpreter, weights: &Weights) -> Tensor {
    let tokens = Tensor::new(&[[3u32, 1, 4, 1, 5, 9, 2, 6, 5, 3]], &Device::Cpu).unwrap();
    model.forward(weights, &tokens).unwrap().logits
}

/// New experts that no router thinks anything of change no answer.
#[test]
fn experts_that_nobody_chooses_change_nothing() {
    let subject = subject("moduleformer");
    let growth = grow(&subject, 2, 3).unwrap();
    let mut old = subject.weights().unwrap();
    // The first hidden neuron of every router is always 10 now, and decides nothing but for the new rows.
    let edited = |name: &str, tensor: &Tensor| -> Tensor {
        let rest = |axis| tensor.narrow(axis, 1, tensor.dim(axis).unwrap() - 1).unwrap();
        let first = |axis, value: f32| (tensor.narrow(axis, 0, 1).unwrap().zeros_like().unwrap() + f64::from(value)).unwrap();
        match name {
            n if n.ends_with("w_gate.0.weight") => Tensor::cat(&[first(0, 0.0), rest(0)], 0).unwrap(),
            n if n.ends_with("w_gate.0.bias") => Tensor::cat(&[first(0, 10.0), rest(0)], 0).unwrap(),
            n if n.ends_with("w_gate.3.weight") => Tensor::cat(&[first(1, 0.0), rest(1)], 1).unwrap(),
            _ => tensor.clone(),
        }
    };
    old.0.iter_mut().for_each(|(name, tensor)| *tensor = edited(name, tensor));
    let new = begin(&growth.parts, &old, &mut Random(1)).unwrap();
    let model = Interpreter::new(growth.import).unwrap();
    let want = logits(&subject.model, &old);
    let apart = |new| {
        let got = logits(&model, &joined(&growth.parts, &old, new).unwrap());
        (got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    };
    assert!(apart(&new) > 1e-2, "new experts as they begin do take part");
    for (name, row) in new.iter().filter(|(name, _)| growth.parts[*name].role == Role::Row) {
        let column = Tensor::full(-10f32, (row.dim(0).unwrap(), 1), &Device::Cpu).unwrap();
        let others = Tensor::zeros((row.dim(0).unwrap(), row.dim(1).unwrap() - 1), DType::F32, &Device::Cpu).unwrap();
        row.set(&Tensor::cat(&[column, others], 1).unwrap()).unwrap();
        assert!(name.contains("w_gate.3"), "{name}");
    }
    assert_eq!(apart(&new), 0.0);
}

#[test]
fn numbers_of_experts_are_found_in_the_configuration() {
    for (case, keys) in [
        ("moduleformer", &[("n_att_experts", 6), ("n_mlp_experts", 9)][..]),
        ("moduleformer_gmm", &[("n_att_experts", 7), ("n_mlp_experts", 10)]),
        ("mixtral", &[("num_local_experts", 7)]),
        ("qwen3_moe", &[("num_local_experts", 7)]),
    ] {
        let subject = subject(case);
        let (old, grown) = (subject.checkpoint.config(), grow(&subject, 2, 3).unwrap());
        for (key, value) in &grown.config {
            let want = keys.iter().find(|k| k.0 == key).map_or_else(|| old[key].clone(), |k| json!(k.1));
            assert_eq!(*value, want, "{case}: {key}");
        }
        let (was, is) = (&subject.model.import().plan.pools, &grown.import.plan.pools);
        let added: Vec<u32> = was.iter().zip(is).map(|(was, is)| is.records - was.records).collect();
        assert!(added.iter().all(|n| [2, 3].contains(n)), "{case}: {added:?}");
    }
}

#[test]
fn what_cannot_grow_is_refused() {
    for (case, attention, named) in [
        ("llama", 2, "no experts"),
        ("jetmoe", 3, "--attention-experts"),
        ("glm4_moe_norm_groups", 2, "groups"),
        ("blockffn_sum_linear", 2, "in tensors of their own"),
    ] {
        let failure = grow(&subject(case), attention, 2).err().map(|f| f.to_string()).unwrap_or_default();
        assert!(failure.contains(named), "{case}: {failure}");
    }
}

/// In f32 when asked for.
#[test]
fn types_of_weights() {
    let (subject, dir) = (subject("jetmoe"), TempDir::new().unwrap());
    let target = dir.path().join("out");
    run(&subject, &target, true);
    let written = Checkpoint::open(&target).unwrap();
    assert!(written.tensors().values().all(|t| t.dtype == safetensors::Dtype::F32));
    let weights = Weights::read(&written, subject.model.tensors().iter()).unwrap();
    for (name, old) in &subject.weights().unwrap().0 {
        let same = weights.get(name).unwrap().narrow(0, 0, old.dim(0).unwrap()).unwrap();
        let apart = (same - old).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(apart, 0.0, "{name}");
    }
}

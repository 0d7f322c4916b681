//! Tests: a model learns from nothing, in any family that can be trained, and the balance loss is what it says.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use candle_core::Device;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::Tensors;
use crate::random::Random;
use crate::training::{Measured, Schedule, Weights};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

#[derive(Default)]
struct Notes(Vec<Measured>);

impl Progress for Notes {
    fn step(&mut self, _: usize, _: f64) {}
    fn check(&mut self, _: usize, measured: &Measured) -> failure::Result<()> {
        self.0.push(measured.clone());
        Ok(())
    }
}

/// A folder with the configuration of a golden model for the tokens of a small tokenizer, and two texts.
fn case(case: &str) -> (TempDir, [Share; 2]) {
    let dir = TempDir::new().unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden(case).join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = json!(512);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("stories260K").join(file), dir.path().join(file)).unwrap();
    }
    let texts = [("one.txt", "Lily saw a big red ball in the park. ", 3.0), ("two.txt", "Tim and his little dog went home. ", 1.0)];
    let texts = texts.map(|(name, line, share)| {
        std::fs::write(dir.path().join(name), line.repeat(40)).unwrap();
        Share { path: dir.path().join(name), share }
    });
    (dir, texts)
}

fn options(balance: Option<f64>) -> Options {
    let schedule = Schedule { steps: 40, rate: 1e-2, decay: 0.1 };
    let settings = Settings { schedule, batch: 4, window: 12, seed: 3, full: false, every: 100, resume: false, device: Device::Cpu };
    Options { balance, held_out: 100, settings }
}

#[test]
fn a_model_learns_from_nothing() {
    for name in ["moduleformer", "jetmoe", "mixtral"] {
        let ((dir, texts), mut notes) = (case(name), Notes::default());
        let target = dir.path().join("out");
        train(dir.path(), &texts, &options(None), &target, &mut notes, &AtomicBool::new(false)).unwrap();
        let (first, last) = (&notes.0[0], notes.0.last().unwrap());
        assert!((first.loss - 512f64.ln()).abs() < 0.5, "{name}: {first:?} knows something before it has learned");
        assert!(last.loss < 3.0, "{name}: {last:?}");
        let written = Checkpoint::open(&target).unwrap();
        let (_, import) = import::import(written.config(), written.tensors()).unwrap();
        let model = Interpreter::new(import).unwrap();
        assert!(Weights::read(&written, model.tensors().iter()).is_ok());
        assert!(written.tokenizer(512).unwrap().is_some());
    }
}

/// What an importer wishes for is what a published checkpoint holds.
#[test]
fn the_tensors_of_a_configuration_are_those_of_its_checkpoint() {
    for name in ["moduleformer", "moduleformer_gmm", "moduleformer_identity_kv", "jetmoe", "mixtral", "olmoe", "qwen3_moe", "glm4_moe"] {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let (wanted, import) = import::blank(checkpoint.config()).unwrap();
        // Tables that follow from the configuration are in published checkpoints, but no importer reads them.
        let read = |name: &str| ![".attn.mask", ".attn.cum_weight"].iter().any(|constant| name.ends_with(constant));
        let shapes = |tensors: &Tensors| -> Vec<_> {
            tensors.iter().filter(|(name, _)| read(name)).map(|(name, t)| (name.clone(), t.shape.clone())).collect()
        };
        assert_eq!(shapes(&wanted), shapes(checkpoint.tensors()), "{name}");
        assert!(begin::weights(&import, &wanted, &mut Random(1)).is_ok(), "{name}");
    }
}

/// The balance loss and where it is smallest.
#[test]
fn even_and_sure_is_best() {
    let imbalance = |rows: &[[f32; 2]]| {
        let logits = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
        let routing = Routing { step: 0, logits: logits.clone(), chosen: Vec::new(), added: None };
        imbalance(&[routing], &logits).unwrap().to_scalar::<f32>().unwrap()
    };
    assert!((imbalance(&[[9.0, -9.0], [-9.0, 9.0]]) + 2f32.ln()).abs() < 1e-3, "sure of all, all used alike");
    assert!(imbalance(&[[0.0, 0.0], [0.0, 0.0]]).abs() < 1e-6, "all used alike, sure of none");
    assert!(imbalance(&[[9.0, -9.0], [9.0, -9.0]]).abs() < 1e-3, "sure of the same one");
}

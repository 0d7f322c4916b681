//! Tests: use does concentrate, an interrupted training ends as one that was not, and what must not go on does not.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use candle_core::{Device, Var};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::import;
use crate::training::interpreter::Interpreter;
use crate::training::{Measured, Schedule, Texts, Weights, measure};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// A golden model and a text of tokens in an order that can be learned.
fn subject(case: &str) -> Subject {
    let checkpoint = Checkpoint::open(&golden(case)).unwrap();
    let model = Interpreter::new(import::import(checkpoint.config(), checkpoint.tensors()).unwrap().1).unwrap();
    let vocab = model.import().plan.vocab;
    let token = |i: u32| (i * i % 7 + i % 3) * 3 % vocab;
    let texts = Texts { bos: None, learned: (0..900).map(token).collect(), held: (0..100).map(token).collect() };
    Subject { checkpoint, model, texts }
}

fn options(part: Part, weight: f64) -> Options {
    let schedule = Schedule { steps: 24, rate: 3e-3, decay: 0.0 };
    Options {
        part,
        weight,
        keep: None,
        settings: Settings { schedule, batch: 4, window: 12, seed: 3, full: false, every: 5, resume: false, device: Device::Cpu },
    }
}

/// Keeps what it is told, and interrupts after a step.
struct Notes<'a> {
    checks: Vec<Measured>,
    steps: Cell<usize>,
    interrupt: Option<(usize, &'a AtomicBool)>,
}

impl Progress for Notes<'_> {
    fn step(&mut self, step: usize, _: f64) {
        self.steps.set(self.steps.get() + 1);
        if let Some((at, stop)) = self.interrupt {
            stop.store(step == at, Ordering::Relaxed);
        }
    }

    fn check(&mut self, _: usize, measured: &Measured) -> failure::Result<()> {
        self.checks.push(measured.clone());
        Ok(())
    }
}

fn run(subject: &Subject, options: &Options, target: &Path, interrupt: Option<usize>) -> failure::Result<Vec<Measured>> {
    let stop = AtomicBool::new(false);
    let mut notes = Notes { checks: Vec::new(), steps: Cell::new(0), interrupt: interrupt.map(|at| (at, &stop)) };
    concentrate(subject, options, target, &mut notes, &stop)?;
    Ok(notes.checks)
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Names of the tensors that differ between a golden checkpoint and what was written.
fn changed(subject: &Subject, target: &Path) -> Vec<String> {
    let written = Checkpoint::open(target).unwrap();
    let same_names = subject.checkpoint.tensors().keys().eq(written.tensors().keys());
    assert!(same_names, "tensors were lost or added");
    let differs = |name: &&String| {
        let (old, new) = (&subject.checkpoint.tensors()[*name], &written.tensors()[*name]);
        assert_eq!((old.dtype, &old.shape), (new.dtype, &new.shape), "{name}");
        subject.checkpoint.bytes(old) != written.bytes(new)
    };
    subject.checkpoint.tensors().keys().filter(differs).cloned().collect()
}

#[test]
fn fewer_experts_are_used_and_the_text_is_learned() {
    for case in ["moduleformer", "jetmoe", "mixtral"] {
        let (subject, dir) = (subject(case), tempfile::tempdir().unwrap());
        let target = dir.path().join("out");
        let free = run(&subject, &options(Part::All, 0.0), &target, None).unwrap();
        let gathered = run(&subject, &options(Part::All, 5.0), &dir.path().join("gathered"), None).unwrap();
        let (before, free, gathered) = (&free[0], free.last().unwrap(), gathered.last().unwrap());
        assert!(free.loss < before.loss - 0.3 && gathered.loss < before.loss - 0.3, "{case}: {before:?}, {free:?}, {gathered:?}");
        assert!(gathered.ffn.unwrap() < 0.95 * free.ffn.unwrap(), "{case}: {free:?}, {gathered:?}");
        assert_eq!(gathered.attention.is_some(), case != "mixtral");
        if let Some((gathered, free)) = gathered.attention.zip(free.attention) {
            assert!(gathered < 0.95 * free, "{case}: {free:?}, {gathered:?}");
        }
        assert_eq!(names(&dir), ["gathered", "out"], "no state is left");

        // What was written is what was measured.
        let written = Checkpoint::open(&dir.path().join("gathered")).unwrap();
        let weights = Weights::read(&written, subject.model.tensors().iter()).unwrap();
        let (_, held) = subject.windows(12).unwrap();
        let again = measure(&subject.model, &weights, &held).unwrap();
        assert!((again.loss - gathered.loss).abs() < 0.02, "{case}: {again:?}, {gathered:?}");
    }
}

#[test]
fn only_the_part_that_was_asked_for_changes() {
    let (subject, dir) = (subject("moduleformer"), tempfile::tempdir().unwrap());
    for (part, name) in [(Part::Routers, "routers"), (Part::Experts, "experts"), (Part::All, "all")] {
        let target = dir.path().join(name);
        run(&subject, &options(part, 0.5), &target, None).unwrap();
        let changed = changed(&subject, &target);
        let of = |what: &str| changed.iter().filter(|n| n.contains(what)).count();
        // Two layers with two routers of three tensors, and two pools of two tensors.
        let others = changed.len() - of("w_gate") - of("experts");
        assert_eq!((of("w_gate"), of("experts")), (12, if part == Part::Routers { 0 } else { 8 }), "{changed:?}");
        assert_eq!(others > 0, part == Part::All, "{changed:?}");
    }
}

#[test]
fn an_interrupted_training_ends_as_one_that_was_not() {
    let (subject, dir) = (subject("moduleformer"), tempfile::tempdir().unwrap());
    let [whole, parts] = ["whole", "parts"].map(|n| dir.path().join(n));
    run(&subject, &options(Part::All, 0.5), &whole, None).unwrap();
    let failure = run(&subject, &options(Part::All, 0.5), &parts, Some(13)).unwrap_err().to_string();
    assert!(failure.contains("after step 13") && failure.contains("--resume"), "{failure}");
    assert_eq!(names(&dir), ["parts.training", "whole"]);

    // Not by accident.
    assert!(run(&subject, &options(Part::All, 0.5), &parts, None).unwrap_err().to_string().contains("--resume"));
    // Not as another training.
    let resuming = || {
        let mut options = options(Part::All, 0.5);
        options.settings.resume = true;
        options
    };
    let resumed = |change: &dyn Fn(&mut Options)| {
        let mut options = resuming();
        change(&mut options);
        run(&subject, &options, &parts, None)
    };
    for (key, change) in [
        ("--lr", &(|o: &mut Options| o.settings.schedule.rate = 1e-3) as &dyn Fn(&mut Options)),
        ("--train", &|o| o.part = Part::Experts),
        ("--weight", &|o| o.weight = 0.4),
        ("--seed", &|o| o.settings.seed = 4),
    ] {
        let failure = resumed(change).unwrap_err().to_string();
        assert!(failure.contains(key), "{key}: {failure}");
    }
    let mut other = self::subject("moduleformer");
    other.texts.learned[7] += 1;
    assert!(run(&other, &resuming(), &parts, None).unwrap_err().to_string().contains("the texts"));

    let checks = resumed(&|_| {}).unwrap();
    assert_eq!(checks.len(), 3, "after 15, 20 and 24 steps");
    assert_eq!(names(&dir), ["parts", "whole"]);
    let [a, b] = [whole, parts].map(|p| std::fs::read(p.join("model.safetensors")).unwrap());
    assert!(a == b, "the weights differ");
    assert!(run(&subject, &resuming(), &dir.path().join("new"), None).unwrap_err().to_string().contains("no state"));
}

/// A rate at which weights become infinite at once.
#[test]
fn an_infinite_loss_stops_training() {
    let (subject, dir) = (subject("moduleformer"), tempfile::tempdir().unwrap());
    let mut wild = options(Part::All, 0.0);
    wild.settings.schedule.rate = 1e30;
    let failure = run(&subject, &wild, &dir.path().join("out"), None).unwrap_err().to_string();
    assert!(failure.contains("at step 2") && failure.contains("--lr"), "{failure}");
    assert!(names(&dir).is_empty());
}

/// The entropy and its gradient, by hand: two tokens, two experts.
#[test]
fn spread_is_an_entropy() {
    let logits = Var::new(&[[0.0f32, 3f32.ln()], [0.0, 0.0]], &Device::Cpu).unwrap();
    let routing = Routing { step: 0, logits: logits.as_tensor().clone(), chosen: Vec::new(), added: None };
    let spread = spread(&[routing]).unwrap();
    // p̄ = (3/8, 5/8).
    let want = -(0.375f32 * 0.375f32.ln() + 0.625 * 0.625f32.ln());
    assert!((spread.to_scalar::<f32>().unwrap() - want).abs() < 1e-6);
    let gradient = spread.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
    // ∂H/∂l of the second expert: ln(p̄_1 / p̄_2) · p·(1 − p) / 2, less than zero where it is the likelier one.
    assert!((gradient[0][1] - 0.6f32.ln() * 0.1875 / 2.0).abs() < 1e-6, "{gradient:?}");
}

/// Without routers there is nothing to do, and an existing folder is not touched.
#[test]
fn what_cannot_be_done_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dense = subject("llama");
    assert!(run(&dense, &options(Part::All, 0.5), &dir.path().join("out"), None).unwrap_err().to_string().contains("no routers"));
    let sparse = subject("moduleformer");
    assert!(run(&sparse, &options(Part::All, 0.5), dir.path(), None).unwrap_err().to_string().contains("exists already"));
    assert!(names(&dir).is_empty());
}

/// In f32 when asked for, and the configuration says so.
#[test]
fn types_of_weights() {
    let (subject, dir) = (subject("jetmoe"), tempfile::tempdir().unwrap());
    let target = dir.path().join("out");
    let mut options = options(Part::Routers, 0.5);
    options.settings.full = true;
    run(&subject, &options, &target, None).unwrap();
    let written = Checkpoint::open(&target).unwrap();
    assert!(written.tensors().values().all(|t| t.dtype == safetensors::Dtype::F32));
    for key in ["dtype", "torch_dtype"] {
        assert!(written.config().get(key).is_none_or(|v| v == "float32"), "{key}");
    }
}

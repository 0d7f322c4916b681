//! What experts are given is measured: the right sums, whatever the batches and wherever experts come from, and nothing else changes.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::{Bundle, RecordView};
use hotset::codec::{Codec, Matrix};
use hotset::cpu::{CpuModel, CpuPaging};
use hotset::model::{Model, Output, Run, RunOptions, Want};
use hotset::plan::{Activation, Expert, Norm, Plan, Role, Work};
use hotset::profile::Activations;
use support::Random;

/// Logits of a conversation that is read in parts of so many tokens, and what was measured.
fn read(model: &dyn Model, tokens: &[u32], at_once: usize, measured: bool) -> (Vec<f32>, Option<Activations>) {
    let mut run: Box<dyn Run> = model.start(RunOptions::new(64)).unwrap();
    if measured {
        run.record_activations().unwrap();
    }
    let mut logits = Vec::new();
    for part in tokens.chunks(at_once) {
        let Output::Logits(rows) = run.forward(part, Want::All).unwrap() else { panic!("logits were asked for") };
        logits.extend(rows);
    }
    (logits, run.take_activations())
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3 * (1e-3 + a.abs().max(b.abs())))
}

#[test]
fn measuring_changes_no_answer_and_knows_no_batches() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..60 {
        let codec = Codec::ALL[seed as usize % Codec::ALL.len()];
        let bundle = Arc::new(support::bundle(dir.path(), seed, codec));
        let tokens = Random::new(seed).tokens(12, bundle.plan().vocab);
        let model = CpuModel::new(bundle.clone(), Some(2)).unwrap();
        let (plain, nothing) = read(&model, &tokens, 12, false);
        let (logits, measured) = read(&model, &tokens, 12, true);
        assert_eq!((plain == logits, nothing), (true, None), "seed {seed}");
        let measured = measured.unwrap();
        assert_eq!(measured.fingerprint, bundle.manifest().fingerprint);

        // As many as the router chose, less those without a record.
        let mut run = model.start(RunOptions::new(64)).unwrap();
        run.record_use().unwrap();
        run.forward(&tokens, Want::Nothing).unwrap();
        let usage = run.take_use().unwrap();
        for (pool, found) in measured.pools.iter().enumerate() {
            let mut counts = vec![0; found.counts.len()];
            let steps = usage.steps.iter().filter(|s| s.pool as usize == pool);
            for (id, n) in steps.flat_map(|s| (0..).zip(&s.selections)) {
                if let Some(record) = bundle.plan().pools[pool].record_of(id) {
                    counts[record as usize] += n;
                }
            }
            assert_eq!(found.counts, counts, "seed {seed}, pool {pool}");
        }

        // Integer kernels round a little differently where experts have other neighbours; floats do not.
        if !codec.has_scales() {
            let alone = read(&model, &tokens, 1, true).1.unwrap();
            let budget = 1 << 30;
            let paged = CpuModel::paged(bundle.clone(), Some(2), &CpuPaging { budget, ..CpuPaging::default() }).unwrap();
            let paged = read(&paged, &tokens, 12, true).1.unwrap();
            for (pool, (a, b)) in measured.pools.iter().zip(&alone.pools).enumerate() {
                assert_eq!(a.counts, b.counts, "seed {seed}");
                assert!(close(&a.input, &b.input) && close(&a.inner, &b.inner), "seed {seed}, pool {pool}");
            }
            assert_eq!(paged, measured, "seed {seed}: paged");
        }
    }
}

/// `matrix · x`.
fn product(matrix: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; x.len()];
    let mut y = |r| {
        matrix.row(r, &mut row);
        row.iter().zip(x).map(|(a, b)| a * b).sum()
    };
    (0..matrix.layout().rows).map(&mut y).collect()
}

/// A plan whose second step has experts that are easy to follow by hand.
fn simple(plan: &Plan) -> bool {
    let step = &plan.steps[1];
    let easy =
        |pool: u32| matches!(plan.pools[pool as usize].expert, Expert::Ffn { gated: true, activation: Activation::Silu, bias: false, .. });
    matches!((&step.work, &step.norm), (Work::Ffn(_), Some(Norm::Rms { .. })))
        && plan.streams.is_empty()
        && plan.embedding.positions.is_none()
        && step.routed.as_ref().is_some_and(|r| easy(r.pool))
}

#[test]
fn sums_are_those_of_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    let (seed, mut model) = support::suitable(Codec::F32, simple);
    // First of all, so that their input is a normalised row of the embedding table.
    model.plan.steps.swap(0, 1);
    let bundle: Arc<Bundle> = Arc::new(model.write(dir.path(), seed));
    let (plan, token) = (bundle.plan(), 7 % bundle.plan().vocab);
    let measured = read(&CpuModel::new(bundle.clone(), Some(1)).unwrap(), &[token], 1, true).1.unwrap();

    let mut x = vec![0.0; plan.width as usize];
    bundle.matrix(&plan.embedding.table).unwrap().row(token as usize, &mut x);
    let Some(Norm::Rms { weight, eps }) = &plan.steps[0].norm else { panic!("chosen so") };
    let mean = x.iter().map(|v| (v * plan.embedding.scale).powi(2)).sum::<f32>() / x.len() as f32;
    let gain = bundle.vector(weight).unwrap();
    let x: Vec<f32> = x.iter().zip(gain).map(|(v, g)| v * plan.embedding.scale / (mean + eps).sqrt() * g).collect();
    let squares = |x: &[f32]| x.iter().map(|v| f64::from(*v) * f64::from(*v)).collect::<Vec<_>>();

    let pool = plan.steps[0].routed.as_ref().unwrap().pool as usize;
    let found = &measured.pools[pool];
    let used = (0..plan.pools[pool].records).filter(|&r| found.counts[r as usize] > 0).collect::<Vec<_>>();
    assert!(!used.is_empty());
    for record in 0..plan.pools[pool].records {
        let importance = |role| found.importance(record, role).map(|m| m.into_iter().map(f64::from).collect::<Vec<_>>());
        if !used.contains(&record) {
            assert_eq!(importance(Role::Down), None);
            continue;
        }
        let view = RecordView::new(bundle.record_layout(pool), bundle.record(pool, record)).unwrap();
        let [gate, up] = [Role::Gate, Role::Up].map(|role| product(&view.matrix(role).unwrap(), &x));
        let hidden: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        assert!(close(&importance(Role::Gate).unwrap(), &squares(&x)), "record {record}");
        assert_eq!(importance(Role::Gate), importance(Role::Up));
        assert!(close(&importance(Role::Down).unwrap(), &squares(&hidden)), "record {record}");
    }
}

#[test]
fn what_was_measured_of_one_bundle_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = [1, 2].map(|seed| Arc::new(support::bundle(dir.path(), seed, Codec::F32)));
    let tokens = Random::new(3).tokens(12, a.plan().vocab);
    let model = CpuModel::new(a, Some(1)).unwrap();
    let once = read(&model, &tokens, 12, true).1.unwrap();
    let mut twice = once.clone();
    twice.merge(&once).unwrap();
    for (twice, once) in twice.pools.iter().zip(&once.pools) {
        assert!(twice.counts.iter().zip(&once.counts).all(|(a, b)| *a == 2 * b));
        assert!(twice.input.iter().zip(&once.input).all(|(a, b)| *a == 2.0 * b));
    }
    assert!(twice.merge(&Activations::new(b.manifest())).unwrap_err().to_string().contains("different bundles"));
}

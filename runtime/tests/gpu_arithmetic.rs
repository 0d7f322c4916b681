//! Integers and halves on the GPU, on random plans.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::gpu::{AdapterChoice, Arithmetic, GpuModel, GpuOptions, adapters};
use hotset::model::{Model, Output, Run, RunOptions, Want};

const OPTIONS: RunOptions = RunOptions::new(64);

fn logits(model: &dyn Model, batches: &[&[u32]]) -> Vec<f32> {
    rows(&mut *model.start(OPTIONS).unwrap(), batches)
}

fn rows(run: &mut dyn Run, batches: &[&[u32]]) -> Vec<f32> {
    let rows = batches.iter().map(|tokens| match run.forward(tokens, Want::All).unwrap() {
        Output::Logits(l) => l,
        other => panic!("{other:?}"),
    });
    rows.collect::<Vec<_>>().concat()
}

/// Bit patterns, to compare for equality.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The median difference as a fraction of the wanted values' standard deviation: unlike the largest, it does not depend on whether
/// some router is undecided.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    let mut all: Vec<f32> = got.iter().zip(want).map(|(a, b)| (a - b).abs() / deviation).collect();
    all.sort_by(f32::total_cmp);
    all[all.len() / 2]
}

fn gpu(bundle: &Arc<Bundle>, options: GpuOptions) -> GpuModel {
    GpuModel::new(bundle.clone(), &options).unwrap()
}

fn options(arithmetic: Arithmetic) -> GpuOptions {
    GpuOptions { arithmetic: Some(arithmetic), ..GpuOptions::on(AdapterChoice::Any) }
}

/// Whether the adapter that tests take computes in half precision; says so where it does not.
fn half() -> bool {
    let found = adapters().into_iter().find(|a| a.unusable.is_none()).is_some_and(|a| a.features.contains(&"half precision"));
    if !found {
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: this GPU has no half precision");
    }
    found
}

/// Eight random bundles of either quantised codec.
fn bundles(dir: &Path) -> impl Iterator<Item = (u64, Arc<Bundle>, Vec<u32>)> {
    (0..8).map(move |seed| {
        let bundle = Arc::new(support::bundle(dir, seed, [Codec::Q8, Codec::Q4][seed as usize % 2]));
        let tokens = support::Random::new(seed).tokens(40, bundle.plan().vocab);
        (seed, bundle, tokens)
    })
}

/// A tile and a bit, then single tokens.
fn batches(tokens: &[u32]) -> [&[u32]; 4] {
    [&tokens[..37], &tokens[37..38], &tokens[38..39], &tokens[39..]]
}

/// Integers round like the CPU (where it has no experts, for then its caches are f32 too). A value on the edge between two integers may
/// fall to either side, by the last bit of earlier sums; such edges are rare, so first tokens meet hardly any.
#[test]
fn integers_equal_the_cpu() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = (0..).filter(|&seed| support::plan(seed, Codec::F32).plan.pools.is_empty()).take(8);
    let equal = plain.enumerate().filter(|&(i, seed)| {
        let bundle = Arc::new(support::bundle(dir.path(), seed, [Codec::Q8, Codec::Q4][i % 2]));
        let tokens = &support::Random::new(seed).tokens(1, bundle.plan().vocab);
        let model = gpu(&bundle, GpuOptions { subgroups: i / 2 % 2 == 0, ..options(Arithmetic::Int8) });
        distance(&logits(&model, &[tokens]), &logits(&CpuModel::new(bundle, Some(1)).unwrap(), &[tokens])) < 1e-6
    });
    let equal = equal.count();
    assert!(equal >= 7, "only {equal} of 8 first tokens are the CPU's");
}

/// Over whole conversations, rounded values drift apart; the error stays what it is on the CPU.
#[test]
fn integers_are_as_exact_as_on_the_cpu() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, bundle, tokens) in bundles(dir.path()) {
        let exact = logits(&ReferenceModel::new(bundle.clone()), &[&tokens]);
        let cpu = distance(&logits(&CpuModel::new(bundle.clone(), Some(1)).unwrap(), &[&tokens]), &exact);
        let model = gpu(&bundle, GpuOptions { subgroups: seed / 2 % 2 == 0, ..options(Arithmetic::Int8) });
        let d = distance(&logits(&model, &batches(&tokens)), &exact);
        assert!((0.7..1.4).contains(&(d / cpu)), "seed {seed}: {d} of the standard deviation, {cpu} on the CPU");
    }
}

/// Halves are about ten times as exact as integers.
#[test]
fn halves_are_close_to_the_reference() {
    if !support::adapter() || !half() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, bundle, tokens) in bundles(dir.path()) {
        let exact = logits(&ReferenceModel::new(bundle.clone()), &[&tokens]);
        let model = gpu(&bundle, GpuOptions { subgroups: seed / 2 % 2 == 0, ..options(Arithmetic::Half) });
        assert!(model.report().device.ends_with("half products"), "{}", model.report().device);
        let d = distance(&logits(&model, &batches(&tokens)), &exact);
        assert!((1e-5..2e-3).contains(&d), "seed {seed}: {d} of the standard deviation");
    }
}

/// The same bits whatever the binding limit and whatever was said before, which is still there behind the ends of rows.
#[test]
fn neither_windows_nor_the_past_change_a_bit() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for arithmetic in [Arithmetic::Int8, Arithmetic::Half].into_iter().filter(|&a| a != Arithmetic::Half || half()) {
        for (seed, bundle, tokens) in bundles(dir.path()).take(4) {
            let model = gpu(&bundle, options(arithmetic));
            let whole = bits(&logits(&model, &batches(&tokens)));
            let small = gpu(&bundle, GpuOptions { binding_limit: Some(80 << 10), ..options(arithmetic) });
            assert!(whole == bits(&logits(&small, &batches(&tokens))), "seed {seed}, {arithmetic}: small windows differ");
            let mut run = model.start(OPTIONS).unwrap();
            let other: Vec<u32> = tokens.iter().rev().copied().collect();
            run.forward(&other, Want::Last).unwrap();
            run.reset();
            assert!(whole == bits(&rows(&mut *run, &batches(&tokens))), "seed {seed}, {arithmetic}: the past shows");
        }
    }
}

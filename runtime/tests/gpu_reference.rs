//! The GPU executor against the reference, on random plans and shapes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::reference::ReferenceModel;
use hotset::gpu::{AdapterChoice, GpuModel, GpuOptions, adapters};
use hotset::model::{Best, Candidates, Model, Output, Run, RunOptions, Want};

/// Whether there is an adapter. Continuous integration must have one.
fn adapter() -> bool {
    let found = adapters().iter().any(|a| a.unusable.is_none());
    assert!(found || std::env::var_os("CI").is_none(), "no GPU adapter, not even a software one");
    if !found {
        eprintln!("NOT CHECKED: there is no GPU adapter, not even a software one (lavapipe)");
    }
    found
}

fn gpu(bundle: &Arc<Bundle>, options: &GpuOptions) -> GpuModel {
    GpuModel::new(bundle.clone(), options).unwrap()
}

fn any() -> GpuOptions {
    GpuOptions::on(AdapterChoice::Any)
}

fn options(context: usize) -> RunOptions {
    RunOptions { context, slide: false, stick_epsilon: 0.0 }
}

fn logits(run: &mut dyn Run, tokens: &[u32]) -> Vec<f32> {
    match run.forward(tokens, Want::All).unwrap() {
        Output::Logits(l) => l,
        other => panic!("{other:?}"),
    }
}

fn best(run: &mut dyn Run, tokens: &[u32], best: &Best) -> Candidates {
    match run.forward(tokens, Want::Best(best)).unwrap() {
        Output::Best(c) => c,
        other => panic!("{other:?}"),
    }
}

/// Largest difference as a fraction of the wanted values' standard deviation.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation
}

/// Prefill of 11 tokens, then 3 one by one, in every way the kernels can be built.
#[test]
fn random_plans_equal_the_reference() {
    if !adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..40 {
        let codec = Codec::ALL[seed as usize % 5];
        let bundle = Arc::new(support::bundle(dir.path(), seed, codec));
        let tokens = support::Random::new(seed).tokens(14, bundle.plan().vocab);
        let mut reference = ReferenceModel::new(bundle.clone()).start(options(16)).unwrap();
        let want = logits(&mut *reference, &tokens);
        let small = GpuOptions { subgroups: seed % 2 == 0, binding_limit: (seed % 3 == 0).then_some(80 << 10), ..any() };
        let model = gpu(&bundle, &small);
        let mut run = model.start(options(16)).unwrap();
        let mut got = logits(&mut *run, &tokens[..11]);
        for t in &tokens[11..] {
            got.extend(logits(&mut *run, &[*t]));
        }
        let d = distance(&got, &want);
        assert!(d < 1e-4, "seed {seed}, {codec}: {d} of the standard deviation; {:#?}", bundle.plan().steps);
    }
}

//! The fast CPU executor against the plain reference, and against itself: batches and threads must not change a bit.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model, Output, RunOptions, Want};

use support::Random;

const WHOLE: RunOptions = RunOptions { context: 512, slide: false, stick_epsilon: 0.0 };

fn logits(output: Output) -> Vec<f32> {
    match output {
        Output::Logits(l) => l,
        other => panic!("{other:?}"),
    }
}

/// Logits after every token, fed in pieces of the given lengths.
fn run(model: &dyn Model, options: RunOptions, tokens: &[u32], pieces: usize) -> Vec<f32> {
    let mut run = model.start(options).unwrap();
    let out = tokens.chunks(pieces).flat_map(|t| logits(run.forward(t, Want::All).unwrap())).collect();
    assert_eq!(run.position(), tokens.len());
    out
}

fn bundle(seed: u64, codec: Codec) -> Arc<Bundle> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(support::bundle(dir.path(), seed, codec))
}

/// Largest difference relative to the standard deviation of `want`.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation
}

#[test]
fn f32_agrees_with_the_reference() {
    for seed in 0..150 {
        let bundle = bundle(seed, Codec::F32);
        let tokens = Random::new(seed).tokens(40, bundle.plan().vocab);
        let want = run(&ReferenceModel::new(bundle.clone()), WHOLE, &tokens, 1);
        let got = run(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), WHOLE, &tokens, 40);
        let distance = distance(&got, &want);
        assert!(distance < 1e-4, "seed {seed}: {distance} of a deviation\n{:#?}", bundle.plan());
    }
}

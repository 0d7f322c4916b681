//! The fast CPU executor against the plain reference, and against itself: batches and threads must not change a bit.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::Error;
use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Best, Model, Output, RunOptions, Want};

use support::Random;

const WHOLE: RunOptions = RunOptions::new(512);

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

/// The reference multiplies with unrounded activations and caches, so a near tie may send a token to other experts: nearly all plans
/// must agree closely.
#[test]
fn other_codecs_agree_within_the_rounding_of_activations() {
    for (codec, tolerance) in [(Codec::F16, 0.002), (Codec::Bf16, 0.002), (Codec::Q8, 0.02), (Codec::Q4, 0.02), (Codec::Mxfp4, 0.02)] {
        let error = |seed| {
            let bundle = bundle(seed, codec);
            let tokens = Random::new(seed).tokens(24, bundle.plan().vocab);
            let want = run(&ReferenceModel::new(bundle.clone()), WHOLE, &tokens, 1);
            let got = run(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), WHOLE, &tokens, 24);
            let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>();
            (squares(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / squares(&mut want.iter().copied())).sqrt()
        };
        let mut errors: Vec<f32> = (0..40).map(error).collect();
        errors.sort_by(f32::total_cmp);
        eprintln!("{codec} {errors:?}");
        assert!(errors[20] < tolerance && errors[35] < 10.0 * tolerance, "{codec}: {errors:?}");
    }
}

#[test]
fn batches_and_threads_do_not_change_a_bit() {
    for seed in 0..40 {
        let bundle = bundle(seed, Codec::ALL[seed as usize % Codec::ALL.len()]);
        let tokens = Random::new(seed).tokens(75, bundle.plan().vocab);
        let options =
            [WHOLE, RunOptions { stick_epsilon: 0.01, ..WHOLE }, RunOptions { slide: true, ..RunOptions::new(37) }][seed as usize % 3];
        let want = run(&CpuModel::new(bundle.clone(), Some(1)).unwrap(), options, &tokens, 1);
        for (threads, pieces) in [(1, 75), (2, 1), (2, 40), (3, 7), (5, 75)] {
            let got = run(&CpuModel::new(bundle.clone(), Some(threads)).unwrap(), options, &tokens, pieces);
            assert!(got == want, "seed {seed}, {threads} threads, pieces of {pieces}\n{:#?}", bundle.plan());
        }
    }
}

#[test]
fn a_sliding_cache_forgets_like_the_reference() {
    let options = RunOptions { slide: true, ..RunOptions::new(9) };
    for seed in 0..40 {
        let bundle = bundle(seed, Codec::F32);
        let tokens = Random::new(seed).tokens(150, bundle.plan().vocab);
        let want = run(&ReferenceModel::new(bundle.clone()), options, &tokens, 1);
        let got = run(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), options, &tokens, 50);
        assert!(distance(&got, &want) < 1e-4, "seed {seed}");
    }
}

#[test]
fn what_is_wanted_is_returned() {
    let bundle = bundle(3, Codec::Q4);
    let vocab = bundle.plan().vocab as usize;
    let tokens = Random::new(3).tokens(20, bundle.plan().vocab);
    let model = CpuModel::new(bundle, None).unwrap();
    let all = run(&model, WHOLE, &tokens, 20);
    let mut run = model.start(WHOLE).unwrap();
    assert_eq!(run.forward(&tokens[..5], Want::Nothing).unwrap(), Output::Nothing);
    assert_eq!(logits(run.forward(&tokens[5..], Want::Last).unwrap()), all[19 * vocab..]);
    assert_eq!(run.position(), 20);

    run.reset();
    assert_eq!(run.position(), 0);
    let best = Best { count: 5, penalised: vec![], penalty: 1.0, inverse_temperature: 1.0 };
    let Output::Best(candidates) = run.forward(&tokens, Want::Best(&best)).unwrap() else { panic!("no candidates") };
    let top = all[19 * vocab..].iter().copied().fold(f32::MIN, f32::max);
    assert_eq!((candidates.tokens.len(), candidates.tokens[0].1), (5, top));
}

/// One token's embedding is not a number; every other token works, since the head has a matrix of its own.
fn damaged(seed: u64, codec: Codec) -> Option<support::Model> {
    let mut model = support::plan(seed, codec);
    let (rows, cols) = (model.plan.vocab, model.plan.width);
    model.tensors.insert("embedding".into(), hotset::bundle::TensorInfo::Matrix { rows, cols, codec: Codec::F32 });
    model.values.get_mut("embedding").unwrap()[4 * cols as usize + 1] = f32::NAN;
    (model.plan.head.output.weight != "embedding").then_some(model)
}

#[test]
fn damaged_weights_are_an_error_and_leave_the_run_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for codec in [Codec::F32, Codec::Q8] {
        for (seed, model) in (0..80).filter_map(|seed| Some((seed, damaged(seed, codec)?))) {
            let bundle = Arc::new(model.write(dir.path(), seed));
            let fast = CpuModel::new(bundle, Some(2)).unwrap();
            for options in [WHOLE, RunOptions { slide: true, ..RunOptions::new(2) }] {
                let mut run = fast.start(options).unwrap();
                run.forward(&[1, 2, 3], Want::Nothing).unwrap();
                assert!(matches!(run.forward(&[5, 4, 6], Want::Last), Err(Error::NotFinite(_))), "seed {seed}");
                assert_eq!(run.position(), 3);
                let after = run.forward(&[7, 8], Want::All).unwrap();
                let mut fresh = fast.start(options).unwrap();
                fresh.forward(&[1, 2, 3], Want::Nothing).unwrap();
                assert_eq!(fresh.forward(&[7, 8], Want::All).unwrap(), after, "seed {seed}, {codec}\n{:#?}", model.plan);
            }
        }
    }
}

#[test]
fn the_report_counts_the_bytes_of_a_token() {
    let bundle = bundle(1, Codec::F32);
    let report = CpuModel::new(bundle.clone(), Some(3)).unwrap().report();
    assert!(report.device.contains("3 threads") && report.kind == "cpu", "{report:?}");
    assert!(report.weight_bytes_per_token > 0 && report.weight_bytes_per_token < 2 * bundle.len());
    assert!(report.cache_bytes_per_token > 0);
}

//! The GPU executor against the reference, on random plans and shapes.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::reference::ReferenceModel;
use hotset::gpu::{AdapterChoice, Arithmetic, GpuModel, GpuOptions};
use hotset::model::{Best, Candidates, Model, Output, Routing, Run, RunOptions, Want};
use hotset::plan::{AttentionKind, Plan, Rule, Step, Weigh, Work};

fn gpu(bundle: &Arc<Bundle>, options: &GpuOptions) -> GpuModel {
    GpuModel::new(bundle.clone(), options).unwrap()
}

/// Any adapter, and nothing left to a measurement.
fn any() -> GpuOptions {
    GpuOptions { arithmetic: Some(Arithmetic::Float), ..GpuOptions::on(AdapterChoice::Any) }
}

fn options(context: usize) -> RunOptions {
    RunOptions::new(context)
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
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..48 {
        let codec = Codec::ALL[seed as usize % Codec::ALL.len()];
        let bundle = Arc::new(support::bundle(dir.path(), seed, codec));
        let tokens = support::Random::new(seed).tokens(14, bundle.plan().vocab);
        let mut reference = ReferenceModel::new(bundle.clone()).start(options(16)).unwrap();
        let want = logits(&mut *reference, &tokens);
        // As little as holds one expert.
        let record = (0..bundle.plan().pools.len()).map(|p| bundle.record_layout(p).bytes as u64).max().unwrap_or(0);
        let small = GpuOptions { subgroups: seed % 2 == 0, binding_limit: (seed % 3 == 0).then_some(record.max(80 << 10)), ..any() };
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

/// Tiles of 32, batches of 256, a cache longer than a block, then decoding with split keys.
#[test]
fn long_prompts_equal_the_reference() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = [5, 11, 18].map(|seed| (seed, support::plan(seed, Codec::Q4)));
    for (seed, model) in plain.into_iter().chain(support::KINDS.map(|kind| support::suitable(Codec::F32, kind))) {
        let bundle = Arc::new(model.write(dir.path(), seed));
        let tokens = support::Random::new(seed).tokens(600, bundle.plan().vocab);
        let mut reference = ReferenceModel::new(bundle.clone()).start(options(600)).unwrap();
        let want = logits(&mut *reference, &tokens);
        let model = gpu(&bundle, &any());
        let mut run = model.start(options(600)).unwrap();
        let mut got = logits(&mut *run, &tokens[..37]);
        got.extend(logits(&mut *run, &tokens[37..597]));
        for t in &tokens[597..] {
            got.extend(logits(&mut *run, &[*t]));
        }
        let d = distance(&got, &want);
        assert!(d < 1e-4, "seed {seed}: {d} of the standard deviation");
    }
}

/// A sliding window forgets the same rows whether tokens come one by one or in batches that wrap around the ring.
#[test]
fn sliding_windows_equal_the_reference() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = [2, 3, 7].map(|seed| (seed, support::plan(seed, Codec::F32)));
    for (seed, model) in plain.into_iter().chain(support::KINDS.map(|kind| support::suitable(Codec::F32, kind))) {
        let bundle = Arc::new(model.write(dir.path(), seed));
        let tokens = support::Random::new(seed).tokens(60, bundle.plan().vocab);
        let sliding = RunOptions { slide: true, ..RunOptions::new(9) };
        let mut reference = ReferenceModel::new(bundle.clone()).start(sliding).unwrap();
        let want = logits(&mut *reference, &tokens);
        let model = gpu(&bundle, &any());
        let mut run = model.start(sliding).unwrap();
        let mut got = logits(&mut *run, &tokens[..31]);
        got.extend(logits(&mut *run, &tokens[31..32]));
        got.extend(logits(&mut *run, &tokens[32..]));
        let d = distance(&got, &want);
        assert!(d < 1e-4, "seed {seed}: {d} of the standard deviation");
        assert_eq!(run.position(), 60);
    }
}

/// More experts than planned, another one than planned, and routers whose doubts decide how many they take.
#[test]
fn other_routings_equal_the_reference() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let certain = |threshold| Rule::Certain { p: 0.6, least: 2, index: 1.1, threshold, epsilon: 1e-5 };
    let rule = |p: &Plan, is: fn(&Rule) -> bool| p.steps.iter().any(|s| s.routed.as_ref().is_some_and(|r| is(&r.router.select.rule)));
    let two = |p: &Plan| {
        let mut routed = p.steps.iter().filter_map(|s| s.routed.as_ref());
        routed.all(|r| r.router.available(p.pools[r.pool as usize].experts()) >= 2)
    };
    let (mut seed, mut differ) = (0, 0);
    for threshold in [0.5, 0.95, 1.0] {
        for routing in [Routing::TopK(3), Routing::Rank(1)] {
            let mut model = (seed..)
                .map(|s| (s, support::plan(s, Codec::F32)))
                .find(|(_, m)| {
                    two(&m.plan) && rule(&m.plan, |r| matches!(r, Rule::TopK { .. })) && rule(&m.plan, |r| matches!(r, Rule::TopP { .. }))
                })
                .unwrap();
            seed = model.0 + 1;
            for routed in model.1.plan.steps.iter_mut().filter_map(|s| s.routed.as_mut()) {
                if let Rule::TopP { .. } = routed.router.select.rule {
                    routed.router.select.rule = certain(threshold);
                    routed.router.weigh = Weigh { floor: 0.8, ..routed.router.weigh.clone() };
                }
            }
            let bundle = Arc::new(model.1.write(dir.path(), seed));
            let tokens = support::Random::new(seed).tokens(14, bundle.plan().vocab);
            let other = RunOptions { routing, ..options(16) };
            let want = logits(&mut *ReferenceModel::new(bundle.clone()).start(other).unwrap(), &tokens);
            let planned = logits(&mut *ReferenceModel::new(bundle.clone()).start(options(16)).unwrap(), &tokens);
            differ += usize::from(want != planned);
            for budget in [None, Some(1 << 40)] {
                let model = gpu(&bundle, &GpuOptions { budget, ..any() });
                let mut run = model.start(other).unwrap();
                if budget.is_some() {
                    model.set_budget(model.report().paging.unwrap().least).unwrap();
                }
                let mut got = logits(&mut *run, &tokens[..7]);
                tokens[7..].iter().for_each(|t| got.extend(logits(&mut *run, &[*t])));
                let d = distance(&got, &want);
                assert!(d < 1e-4, "seed {seed}, {routing:?}, {budget:?}: {d} of the standard deviation");
            }
        }
    }
    assert!(differ > 3, "hardly any routing made a difference: {differ}");
}

/// Candidates, penalties and log Σ exp come out as on the reference; nothing depends on earlier conversations.
#[test]
fn candidates_equal_the_reference() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, subgroups) in [(4, true), (9, false)] {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::Q8));
        let tokens = support::Random::new(seed).tokens(6, bundle.plan().vocab);
        let model = gpu(&bundle, &GpuOptions { subgroups, ..any() });
        let mut run = model.start(options(16)).unwrap();
        for (count, penalty) in [(1, 1.0), (128, 1.0), (40, 1.7)] {
            let wish = Best { count, penalised: vec![1, 7, 30, 49], penalty, inverse_temperature: 1.4 };
            let mut reference = ReferenceModel::new(bundle.clone()).start(options(16)).unwrap();
            let want = best(&mut *reference, &tokens, &wish);
            run.reset();
            let got = best(&mut *run, &tokens, &wish);
            assert_eq!(got.tokens.len(), want.tokens.len());
            for (g, w) in got.tokens.iter().zip(&want.tokens) {
                assert!(
                    (g.1 - w.1).abs() < 1e-4 && (g.0 == w.0 || want.tokens.iter().any(|o| o.0 == g.0 && (o.1 - w.1).abs() < 1e-4)),
                    "{g:?} for {w:?}"
                );
            }
            assert!((got.log_total - want.log_total).abs() < 1e-4, "{} for {}", got.log_total, want.log_total);
        }
    }
}

/// Stopping early changes no weight by more than what was left of the stick.
#[test]
fn stick_epsilon_bounds_the_difference() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sticks = |step: &Step| matches!(&step.work, Work::Attention(a) if a.kind == AttentionKind::StickBreaking && a.window.is_none());
    let model = (0..).map(|seed| support::plan(seed, Codec::F32)).find(|m| m.plan.steps.iter().any(sticks)).unwrap();
    let bundle = Arc::new(model.write(dir.path(), 1));
    let tokens = support::Random::new(1).tokens(700, bundle.plan().vocab);
    let model = gpu(&bundle, &any());
    let mut exact = model.start(options(700)).unwrap();
    let mut early = model.start(RunOptions { stick_epsilon: 1e-5, ..options(700) }).unwrap();
    let d = distance(&logits(&mut *early, &tokens), &logits(&mut *exact, &tokens));
    assert!(d < 1e-3, "{d} of the standard deviation");
}

/// The same bits whatever the binding limit, and on every repetition.
#[test]
fn windows_do_not_change_a_bit() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for seed in [0, 6] {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::F16));
        let tokens = support::Random::new(seed).tokens(12, bundle.plan().vocab);
        let run = |binding_limit| {
            let model = gpu(&bundle, &GpuOptions { binding_limit, ..any() });
            let mut run = model.start(options(16)).unwrap();
            let mut all = logits(&mut *run, &tokens[..9]);
            tokens[9..].iter().for_each(|t| all.extend(logits(&mut *run, &[*t])));
            all.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let whole = run(None);
        assert!(whole == run(None), "seed {seed}: a repetition differs");
        assert!(whole == run(Some(40 << 10)), "seed {seed}: small windows differ");
    }
}

/// Weights that are no numbers are an error, leave the position alone, and spoil nothing for others.
#[test]
fn numbers_that_are_not_finite_are_an_error() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut model = (0..).map(|seed| support::plan(seed, Codec::F32)).find(|m| m.plan.head.output.weight != "embedding").unwrap();
    let width = model.plan.width as usize;
    let table = model.values.get_mut("embedding").unwrap();
    table[7 * width..8 * width].fill(f32::INFINITY);
    let bundle = Arc::new(model.write(dir.path(), 8));
    let model = gpu(&bundle, &any());
    let mut run = model.start(options(16)).unwrap();
    let clean = logits(&mut *run, &[1, 2, 3]);
    let wish = Best { count: 1, penalised: Vec::new(), penalty: 1.0, inverse_temperature: 1.0 };
    for want in [Want::All, Want::Last, Want::Best(&wish)] {
        let e = run.forward(&[7], want).unwrap_err();
        assert!(matches!(e, hotset::Error::NotFinite(_)), "{e}");
        assert_eq!(run.position(), 3);
    }
    run.reset();
    assert_eq!(logits(&mut *run, &[1, 2, 3]), clean);
}

#[test]
fn absent_adapters_and_small_bindings_are_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 0, Codec::F32));
    let fail = |options: &GpuOptions| match GpuModel::new(bundle.clone(), options) {
        Err(hotset::Error::Device(message)) => message,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("no error"),
    };
    let message = fail(&GpuOptions::on(AdapterChoice::Named("no such card".into())));
    assert!(message.contains("no such card"), "{message}");
    if support::adapter() {
        let message = fail(&GpuOptions { binding_limit: Some(4 << 10), ..any() });
        assert!(message.contains("binds at once"), "{message}");
        let whole = |step: &Step| matches!(&step.work, Work::Attention(a) if a.window.is_none());
        let model = (0..).map(|seed| support::plan(seed, Codec::F32)).find(|m| m.plan.steps.iter().any(whole)).unwrap();
        let model = gpu(&Arc::new(model.write(dir.path(), 1)), &any());
        let message = model.start(options(1 << 30)).err().unwrap().to_string();
        assert!(message.contains("ask for at most"), "{message}");
        let mut run = model.start(options(4)).unwrap();
        assert!(matches!(run.forward(&[1; 5], Want::Last), Err(hotset::Error::Context { needed: 5, available: 4 })));
    }
}

//! Experts under a budget: whatever the budget, the policy, how far tokens run ahead and which way records come, not a bit of any result
//! changes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::experts::Policy;
use hotset::gpu::{AdapterChoice, GpuModel, GpuOptions, Placement};
use hotset::model::{Best, Model, Output, Paging, Run, RunOptions, Want};
use hotset::plan::Work;

const CONTEXT: usize = 48;

fn any() -> GpuOptions {
    GpuOptions::on(AdapterChoice::Any)
}

fn with(budget: u64) -> GpuOptions {
    GpuOptions { budget: Some(budget), ..any() }
}

fn open(bundle: &Arc<Bundle>, options: &GpuOptions) -> GpuModel {
    GpuModel::new(bundle.clone(), options).unwrap()
}

fn start(model: &GpuModel) -> Box<dyn Run> {
    model.start(RunOptions { context: CONTEXT, slide: false, stick_epsilon: 0.0 }).unwrap()
}

fn paging(model: &GpuModel) -> Paging {
    model.report().paging.unwrap()
}

fn everything(bundle: &Bundle) -> u64 {
    (0..).zip(&bundle.plan().pools).map(|(i, p)| u64::from(p.records) * bundle.record_layout(i).bytes as u64).sum()
}

/// The least a model needs with one run, and what lets it hold everything.
fn extremes(model: &GpuModel, bundle: &Bundle) -> (u64, u64) {
    let _run = start(model);
    let p = paging(model);
    (p.least, p.fixed + everything(bundle))
}

/// All that a conversation says, as bits: a prompt, single tokens, candidates, a batch of a few, and tokens that follow from candidates.
fn conversation(run: &mut dyn Run, tokens: &[u32]) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut logits = |run: &mut dyn Run, tokens: &[u32], want| match run.forward(tokens, want).unwrap() {
        Output::Logits(l) => bits.extend(l.iter().map(|v| v.to_bits())),
        other => panic!("{other:?}"),
    };
    run.reset();
    logits(run, &tokens[..13], Want::All);
    for t in &tokens[13..17] {
        logits(run, &[*t], Want::Last);
    }
    logits(run, &tokens[17..20], Want::All);
    let mut next = tokens[20];
    for i in 0..6u32 {
        let wish = Best { count: 3, penalised: vec![1, 5], penalty: 1.3, inverse_temperature: 0.9 };
        let Output::Best(c) = run.forward(&[next], Want::Best(&wish)).unwrap() else { panic!("no candidates") };
        bits.extend(c.tokens.iter().flat_map(|t| [t.0, t.1.to_bits()]).chain([c.log_total.to_bits()]));
        // Greedy, and by another rule.
        next = c.tokens[i as usize % 2].0;
    }
    bits
}

fn prompt(seed: u64, bundle: &Bundle) -> Vec<u32> {
    support::Random::new(seed).tokens(21, bundle.plan().vocab)
}

/// The seeds of random plans that have experts, in all codecs.
fn plans(dir: &std::path::Path, n: usize) -> impl Iterator<Item = (u64, Arc<Bundle>)> {
    let bundles = (100u64..).map(move |seed| (seed, Arc::new(support::bundle(dir, seed, Codec::ALL[seed as usize % 5]))));
    bundles.filter(|(_, b)| b.plan().pools.len() > 1).take(n)
}

/// Budgets from the smallest to everything, every policy, every way of running ahead.
#[test]
fn budgets_change_no_bit() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut missed = 0;
    for (i, (seed, bundle)) in plans(dir.path(), 12).enumerate() {
        let tokens = prompt(seed, &bundle);
        let want = conversation(&mut *start(&open(&bundle, &any())), &tokens);
        let run_ahead = [Some(1), Some(3), Some(1000), None][i % 4];
        let policy = Policy::ALL[i % 3];
        let model = open(&bundle, &GpuOptions { policy, run_ahead, ..with(1 << 40) });
        let mut run = start(&model);
        let (least, most) = (paging(&model).least, paging(&model).fixed + everything(&bundle));
        for budget in [most, least, least + (most - least) / 3, least + (most - least) * 2 / 3, most] {
            model.set_budget(budget).unwrap();
            assert!(conversation(&mut *run, &tokens) == want, "seed {seed}: {budget} of {least} to {most} bytes, {policy}, {run_ahead:?}");
            let p = paging(&model);
            assert_eq!(p.budget, budget);
            missed += p.counts.misses;
        }
    }
    assert!(missed > 100, "nothing was paged: {missed}");
}

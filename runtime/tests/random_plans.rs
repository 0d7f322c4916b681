//! The generator of random bundles must itself make valid ones, and everything the vocabulary has.

#![cfg(feature = "cpu")]

mod support;

use hotset::codec::Codec;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model, Output, RunOptions, Want};
use hotset::plan::{AttentionKind, Feature, Join, Part, Plan, Rule, Score, Semantics, Transform, Value, Work};
use std::sync::Arc;

/// What should turn up, and whether a plan has it.
type Kind = (&'static str, fn(&Plan) -> bool);

const KINDS: [Kind; 21] = [
    ("routed stick-breaking", |p| attention(p, |a| a.kind == AttentionKind::StickBreaking && a.q == Part::Expert)),
    ("tied keys and values", |p| attention(p, |a| a.k == Part::Input && p.states[a.state as usize].tied)),
    ("rotation, norm and window", |p| attention(p, |a| a.rotation.is_some() && a.q_norm.is_some() && a.window.is_some())),
    ("norm after rotation", |p| attention(p, |a| a.rotated_first && a.q_norm.is_some())),
    ("latent", |p| attention(p, |a| a.latent.is_some())),
    ("low-rank queries", |p| attention(p, |a| matches!(a.q, Part::LowRank { .. }))),
    ("sinks", |p| attention(p, |a| a.sinks.is_some())),
    ("summed modules", |p| attention(p, |a| matches!(a.q, Part::Sum { .. }))),
    ("modules with keys of their own", |p| attention(p, |a| a.k == Part::Expert)),
    ("shared and routed feed-forward", |p| {
        p.steps.iter().any(|s| matches!(&s.work, Work::Ffn(f) if f.shared.is_some()) && s.routed.is_some())
    }),
    ("convolution", |p| p.steps.iter().any(|s| matches!(s.work, Work::Convolution(_)))),
    ("a stream that is replaced", |p| p.steps.iter().any(|s| s.join == Join::Replace)),
    ("learned positions", |p| p.embedding.positions.is_some()),
    ("a router with memory", |p| router(p, |r| matches!(r.score, Score::Recurrent { .. }))),
    ("a router that looks elsewhere", |p| router(p, |r| r.feature == Feature::Stream(1))),
    ("routes of variable length", |p| router(p, |r| matches!(r.select.rule, Rule::TopP { .. } | Rule::NonZero))),
    ("normalised rectified logits", |p| router(p, |r| matches!(r.transform, Some(Transform::Relu { norm: Some(_) })))),
    ("groups and a selection bias", |p| router(p, |r| r.select.groups.is_some() && r.select.bias.is_some())),
    ("masked experts", |p| router(p, |r| r.pruned.as_ref().is_some_and(|p| p.semantics == Semantics::Masked))),
    ("deleted experts", |p| router(p, |r| r.pruned.as_ref().is_some_and(|p| p.semantics == Semantics::Deleted))),
    ("close rivals", |p| router(p, |r| matches!(r.weigh.by, Value::SoftmaxClose { .. }))),
];

fn attention(p: &Plan, is: impl Fn(&hotset::plan::Attention) -> bool) -> bool {
    p.steps.iter().any(|s| matches!(&s.work, Work::Attention(a) if is(a)))
}

fn router(p: &Plan, is: impl Fn(&hotset::plan::Router) -> bool) -> bool {
    p.steps.iter().any(|s| s.routed.as_ref().is_some_and(|r| is(&r.router)))
}

#[test]
fn random_plans_are_valid_and_varied() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut seen = [0; KINDS.len()];
    for seed in 0..150 {
        let bundle = support::bundle(dir.path(), seed, Codec::ALL[seed as usize % Codec::ALL.len()]);
        KINDS.iter().zip(&mut seen).for_each(|((_, is), n)| *n += usize::from(is(bundle.plan())));
    }
    for ((kind, _), n) in KINDS.iter().zip(seen) {
        assert!(n >= 2, "{kind}: {n} of 150 plans");
    }
}

/// Whatever is drawn, the reference gives numbers, and the same ones for a prompt in one call and token by token.
#[test]
fn the_reference_runs_them_all() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for seed in 0..150 {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::F32));
        let tokens = support::Random::new(seed).tokens(9, bundle.plan().vocab);
        let model = ReferenceModel::new(bundle.clone());
        let start = || model.start(RunOptions::new(64)).expect("it starts");
        let logits = |out| match out {
            Output::Logits(l) => l,
            other => panic!("{other:?}"),
        };
        let whole = logits(start().forward(&tokens, Want::All).unwrap_or_else(|e| panic!("seed {seed}: {e}")));
        let mut run = start();
        let single: Vec<f32> = tokens.iter().flat_map(|t| logits(run.forward(&[*t], Want::All).expect("as before"))).collect();
        assert_eq!(whole, single, "seed {seed}");
    }
}

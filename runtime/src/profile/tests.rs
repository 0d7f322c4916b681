#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::recorder::{Recorder, StepNotes};
use super::*;
use crate::codec::Codec;
use crate::plan::{
    Activation, Embedding, Expert, Ffn, Head, Linear, Norm, Plan, Pool, Routed, Router, Score, Select, Step, Value, Weigh, Work,
};

/// A plan with a routed step for each pool: experts and experts per token.
fn plan(pools: &[(u32, u32)]) -> Plan {
    let linear = |name: &str| Linear { weight: name.into(), bias: None };
    let step = |(i, &(_, k)): (usize, &(u32, u32))| {
        let router = Router::new(Score::Linear(linear("router")), Select::top_k(k), Weigh::by(Value::Softmax));
        let step = Step::new(format!("step{i}"), None, Work::Ffn(Ffn { shared: None }));
        Step { routed: Some(Routed { pool: i as u32, router }), ..step }
    };
    let expert = Expert::Ffn { hidden: 32, gated: false, activation: Activation::Relu, bias: false };
    let pool = |(i, &(records, _)): (usize, &(u32, u32))| Pool {
        name: format!("pool{i}"),
        expert: expert.clone(),
        codec: Codec::F32,
        records,
        alias: None,
    };
    Plan {
        version: crate::plan::VERSION,
        width: 32,
        vocab: 16,
        context: None,
        embedding: Embedding::new("table".into(), 1.0),
        streams: Vec::new(),
        memories: Vec::new(),
        rotations: Vec::new(),
        pools: pools.iter().enumerate().map(pool).collect(),
        states: Vec::new(),
        steps: pools.iter().enumerate().map(step).collect(),
        head: Head { norm: Norm::Rms { weight: "norm".into(), eps: 1e-5 }, output: linear("table"), scale: 1.0 },
        adapter: None,
    }
}

/// A note of tokens that choose these experts, with weight 1/2 and outputs of length 4.
fn note(tokens: &[&[u32]]) -> StepNotes {
    let routes: Vec<(u32, f32)> = tokens.iter().flat_map(|t| t.iter().map(|&e| (e, 0.5))).collect();
    let ends = tokens.iter().scan(0, |end, t| {
        *end += t.len();
        Some(*end)
    });
    StepNotes { ends: ends.collect(), lengths: Some(vec![4.0; routes.len()]), routes }
}

#[test]
fn every_choice_is_counted() {
    let plan = plan(&[(3, 2), (2, 1)]);
    let mut recorder = Recorder::new(&plan);
    recorder.add(&[note(&[&[0, 2], &[2, 1]]), note(&[&[1], &[0]])]);
    recorder.add(&[note(&[&[2, 0]]), note(&[&[1]])]);
    let usage = recorder.take(&plan);
    assert_eq!(usage.tokens, 3);
    let [first, second] = &usage.steps[..] else { panic!("{usage:?}") };
    assert_eq!((&first.selections[..], &second.selections[..]), (&[2, 1, 3][..], &[1, 2][..]));
    assert_eq!(first.gate, [1.0, 0.5, 1.5]);
    assert_eq!(first.saliency.as_deref(), Some(&[4.0, 2.0, 6.0][..]));
    // Of (0, 2) with 1; (2, 1) with 0; (2, 0) with 1.
    assert_eq!(first.next, [0, 2, 1, 0, 1, 2]);
    assert!(second.next.is_empty());
    assert_eq!(recorder.take(&plan), Usage::new(&plan), "taken once");
}

#[test]
fn chunks_are_whole_and_end_where_a_conversation_does() {
    let plan = plan(&[(9, 1)]);
    let mut recorder = Recorder::new(&plan);
    let read = |recorder: &mut Recorder, experts: &[u32]| experts.iter().for_each(|e| recorder.add(&[note(&[&[*e]])]));
    read(&mut recorder, &[0, 1, 2, 3, 4, 5, 5, 5, 8, 8]);
    recorder.interrupt();
    read(&mut recorder, &[7; 7]);
    let chunks = recorder.take(&plan).steps[0].chunks.clone();
    assert_eq!(chunks, [ChunkUse { tokens: 8, chunks: 1, experts: 6 }, ChunkUse { tokens: 64, chunks: 0, experts: 0 }]);
}

#[test]
fn lengths_that_nobody_measured_are_not_made_up() {
    let plan = plan(&[(2, 1)]);
    let mut recorder = Recorder::new(&plan);
    recorder.add(&[note(&[&[0]])]);
    recorder.add(&[StepNotes { lengths: None, ..note(&[&[1]]) }]);
    assert_eq!(recorder.take(&plan).steps[0].saliency, None);
}

/// A profile of a made-up bundle, with the given selections in each pool.
fn profile(plan: &Plan, selections: &[&[u64]]) -> Profile {
    let mut usage = Usage { tokens: 100, ..Usage::new(plan) };
    for (step, n) in usage.steps.iter_mut().zip(selections) {
        step.selections = n.to_vec();
        step.gate = n.iter().map(|&n| n as f64 / 2.0).collect();
        step.saliency = Some(n.iter().map(|&n| n as f64 * 3.0).collect());
    }
    let texts = BTreeMap::from([("text".to_owned(), usage)]);
    Profile { version: VERSION, fingerprint: "print".into(), model: "model".into(), texts, sizes: None, losses: None }
}

#[test]
fn profiles_add_up() {
    let plan = plan(&[(3, 1)]);
    let (mut a, b) = (profile(&plan, &[&[1, 2, 3]]), profile(&plan, &[&[10, 0, 1]]));
    a.merge(&b).unwrap();
    assert_eq!(a.texts["text"].steps[0].selections, [11, 2, 4]);
    assert_eq!(a.texts["text"].tokens, 200);
    let other = Profile { fingerprint: "another".into(), ..b.clone() };
    assert!(a.merge(&other).unwrap_err().to_string().contains("cannot be merged"));
    assert_eq!(Profile::read(&a.to_json().unwrap()).unwrap(), a);
}

#[test]
fn damaged_profiles_are_refused_in_a_sentence() {
    let plan = plan(&[(3, 1), (2, 1)]);
    let good = profile(&plan, &[&[1, 2, 3], &[4, 5]]).to_json().unwrap();
    Profile::read(&good).unwrap();
    for (from, to, says) in [
        ("\"version\":1", "\"version\":2", "newest"),
        ("\"selections\":[1,2,3]", "\"selections\":[1,2]", "different lengths"),
        ("\"gate\":[0.5,1.0,1.5]", "\"gate\":[0.5,1.0]", "different lengths"),
        ("\"next\":[0,", "\"next\":[", "different lengths"),
        ("\"selections\":[4,5]", "\"selections\":[4,-5]", "selections"),
        ("\"selections\":[4,5]", "\"selections\":[4,1e400]", "no usable profile"),
        ("\"fingerprint\"", "\"finger\"", "finger"),
        ("{\"version\"", "[\"version\"", "no usable profile"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let error = Profile::read(&bad).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn effective_experts_are_all_or_one() {
    let plan = plan(&[(4, 1)]);
    let effective = |n: [u64; 4]| StepUse { selections: n.to_vec(), ..Usage::new(&plan).steps[0].clone() }.effective_experts();
    assert!((effective([5; 4]) - 4.0).abs() < 1e-9);
    assert!((effective([0, 9, 0, 0]) - 1.0).abs() < 1e-9);
}

proptest! {
    /// What is kept fits, is what routers need at least, and is never a worse expert than one that is dropped.
    #[test]
    fn the_best_are_kept(
        uses in proptest::collection::vec(proptest::collection::vec(0u64..1000, 2..12), 1..6),
        keep in 0.3f64..1.0,
        uniform in any::<bool>(),
    ) {
        let plan = plan(&uses.iter().map(|u| (u.len() as u32, 2)).collect::<Vec<_>>());
        let uses: Vec<&[u64]> = uses.iter().map(Vec::as_slice).collect();
        let profile = profile(&plan, &uses);
        let counts: Vec<u64> = uses.iter().map(|u| u.len() as u64).collect();
        let options = KeepOptions { keep, uniform, ..KeepOptions::default() };
        let total: u64 = counts.iter().sum();
        let kept = profile.keep_in(&plan, |_| 100, &options);
        let Ok(kept) = kept else {
            let fewest = |u: &&[u64]| if uniform { ((u.len() as f64 * keep) as u64).max(2) } else { 2 };
            prop_assert!(uses.iter().map(fewest).sum::<u64>() * 100 > ((total * 100) as f64 * keep) as u64, "{kept:?}");
            return Ok(());
        };
        kept.validate(&plan).unwrap();
        for (use_, ids) in uses.iter().zip(&kept.pools) {
            prop_assert!(ids.len() >= 2);
            let worst = ids.iter().map(|&e| use_[e as usize]).min().unwrap();
            let dropped = (0..use_.len() as u32).filter(|e| !ids.contains(e));
            prop_assert!(dropped.map(|e| use_[e as usize]).all(|n| n <= worst));
            prop_assert!(ids.windows(2).all(|w| use_[w[0] as usize] >= use_[w[1] as usize]), "hot ones first");
        }
        let size: usize = kept.pools.iter().map(Vec::len).sum();
        if !uniform {
            let limit = (total as f64 * keep) as usize;
            prop_assert!(size <= limit && size + 1 > limit, "{size} of {limit}");
        }
    }
}

/// What is added to the stream decides between pools, the criterion within each.
#[test]
fn pools_keep_what_they_deserve() {
    let plan = plan(&[(8, 2), (8, 2)]);
    let mut profile = profile(&plan, &[&[100, 9, 1, 1, 1, 1, 1, 1], &[20; 8]]);
    let options = KeepOptions { keep: 0.5, criterion: Criterion::Frequency, ..KeepOptions::default() };
    let sizes = |p: &Profile, o: &KeepOptions| p.keep_in(&plan, |_| 100, o).unwrap().pools.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&profile, &options), [2, 6]);
    assert_eq!(sizes(&profile, &KeepOptions { uniform: true, ..options.clone() }), [4, 4]);
    let steps = &mut profile.texts.get_mut("text").unwrap().steps;
    steps[0].saliency = Some(vec![900.0; 8]);
    assert_eq!(sizes(&profile, &options), [6, 2]);
    let error = profile.keep_in(&plan, |_| 100, &KeepOptions { keep: 0.2, ..options }).unwrap_err().to_string();
    assert!(error.contains("fewer than it selects; keep at least 0.25"), "{error}");
}

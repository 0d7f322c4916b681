//! Choices and predictions against numbers worked out by hand, on the plan of the demo bundle.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use hotset::bundle::Bundle;
use hotset::plan::Semantics;
use hotset::profile::{Criterion, RatioLoss};

use super::*;
use crate::devices::{Asked, Device};

fn demo() -> Bundle {
    Bundle::open(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset")).unwrap()
}

fn device(spec: &str) -> Device {
    match spec.parse().unwrap() {
        Asked::Known(device) => device,
        Asked::Here => panic!("{spec}"),
    }
}

fn losses() -> Losses {
    let ratios = [(0.9, 2.01), (0.5, 2.09), (0.3, 2.5)].map(|(keep, loss)| RatioLoss { keep, bytes: 0, loss });
    Losses { criterion: Criterion::default(), semantics: Semantics::default(), tokens: 100, base: 2.0, ratios: ratios.to_vec() }
}

#[test]
fn losses_between_what_was_measured() {
    let l = losses();
    assert_eq!((loss(&l, 1.0), loss(&l, 0.5), loss(&l, 0.2)), (Some(2.0), Some(2.09), None));
    assert!((loss(&l, 0.7).unwrap() - 2.05).abs() < 1e-12);
    // 2.1 is reached a little below one half: 0.5 - 0.2 * 0.01 / 0.41.
    assert!((affordable(&l, 0.05) - (0.5 - 0.2 * 0.01 / 0.41)).abs() < 1e-12);
    assert!((affordable(&l, 0.0) - 1.0).abs() < 1e-12);
    assert_eq!(affordable(&l, 9.0), 0.3, "nothing is known below");
}

#[test]
fn time_is_bytes_over_bandwidth() {
    let bundle = demo();
    let cost = bundle.cost();
    assert_eq!(bundle.manifest().cost(bundle.tokenizer().map_or(0, <[u8]>::len) as u64).unwrap().catalogue, cost.catalogue);
    let (d, e) = (cost.dense_per_token as f64, cost.routed_per_token as f64);
    // Two of 8 attention experts and two of 16 feed-forward ones in each of 6 layers; records are padded to 16 KiB.
    let stored = 6.0 * 2.0 * (49152.0 + 98304.0);
    assert!(e <= stored && e > 0.8 * stored, "{e} of {stored}");

    let roomy = device("ram=1GiB,bandwidth=10GB/s,flash=1GB/s");
    let p = predict(bundle.plan(), &cost, &roomy, 512, |_| panic!("everything is there")).unwrap();
    assert_eq!((p.hit_rate, p.hot, p.seconds_waiting), (1.0, p.experts, 0.0));
    assert!((p.tokens_per_second - 0.7 * 10e9 / (d + e)).abs() < 1e-6 * p.tokens_per_second);

    let needs = Needs::new(bundle.plan(), &cost, 10 << 20, 512);
    let tight = device("ram=10MiB,bandwidth=10GB/s,flash=1GB/s");
    let p = predict(bundle.plan(), &cost, &tight, 512, |room| room as f64 / p.experts as f64).unwrap();
    assert_eq!(p.hot, (10 << 20) - needs.fixed());
    let waiting = (1.0 - p.hot as f64 / p.experts as f64) * e / 1e9;
    assert!((p.seconds_waiting - waiting).abs() < 1e-12 && waiting > 0.0);

    // A GPU's misses come over its link; the system's memory has them all.
    let card = device("ram=1GiB,bandwidth=10GB/s,flash=1GB/s,vram=10MiB,vram-bandwidth=100GB/s");
    let q = predict(bundle.plan(), &cost, &card, 512, |_| p.hit_rate).unwrap();
    assert!((q.seconds_waiting - (1.0 - p.hit_rate) * e / 22e9).abs() < 1e-12);

    let least = smallest(bundle.plan(), &cost, 512);
    let at = |bytes: u64| predict(bundle.plan(), &cost, &device(&format!("ram={bytes},bandwidth=1GB/s,flash=1GB/s")), 512, |_| 0.0);
    assert!(at(least).is_some() && at(least - 1).is_none());
}

#[test]
fn bits_go_before_experts() {
    let bundle = demo();
    let fine = Candidate { codec: None, plan: bundle.plan().clone(), cost: bundle.cost() };
    let mut coarse = fine.clone();
    coarse.codec = Some(Codec::Q4);
    // As if it took half the bytes.
    let half = |p: usize| bundle.record_layout(p).bytes as u64 / 2;
    coarse.cost.catalogue = hotset::experts::Catalogue::new(bundle.plan(), half);
    let candidates = [fine, coarse];
    let experts = candidates[0].cost.catalogue.bytes();
    let fixed = |memory| Needs::new(bundle.plan(), &candidates[1].cost, memory, 64).fixed();
    let choose = |memory, losses: Option<&Losses>, max| choose(&candidates, memory, 64, losses, max);

    let roomy = choose(1 << 30, None, 0.05);
    assert_eq!((roomy.candidate, roomy.keep), (0, 1.0));
    let less = choose(fixed(9 << 20) + experts * 6 / 10, None, 0.05);
    assert_eq!((less.candidate, less.keep), (1, 1.0));
    // Room for four fifths of the coarse experts.
    let memory = fixed(7 << 20) + experts * 4 / 10;
    let (unknown, known, strict) =
        (choose(memory, None, 0.05), choose(memory, Some(&losses()), 0.05), choose(memory, Some(&losses()), 0.0));
    assert_eq!((unknown.candidate, unknown.keep), (1, 1.0));
    assert!(unknown.why.contains("--losses"), "{}", unknown.why);
    assert!((known.keep - 0.8).abs() < 0.05 && known.why.contains("stay in memory"), "{known:?}");
    assert!(strict.keep == 1.0 && strict.why.contains("more than 0 %"), "{strict:?}");
    let little = choose(fixed(5 << 20) + experts / 10, Some(&losses()), 0.05);
    assert!((little.keep - affordable(&losses(), 0.05)).abs() < 1e-12 && little.why.contains("at most 5 %"), "{little:?}");
}

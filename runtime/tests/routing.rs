//! Sessions that use other experts than the model was trained to: any number of them, or two routings against each other.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::PathBuf;

use hotset::codec::Codec;
use hotset::plan::{Plan, Rule};
use hotset::{Device, Engine, EngineOptions, GenerateOptions, SelfContrast, SessionOptions};

/// Devices that every test here goes through.
fn devices() -> Vec<Device> {
    let gpu = support::adapter().then_some(Device::Gpu);
    [Device::Reference, Device::Cpu].into_iter().chain(gpu).collect()
}

fn top_k(plan: &Plan) -> impl Iterator<Item = (u32, u32)> {
    let routed = plan.steps.iter().filter_map(|s| s.routed.as_ref());
    routed.filter_map(|r| match r.router.select.rule {
        Rule::TopK { k } => Some((k, r.router.available(plan.pools[r.pool as usize].experts()))),
        _ => None,
    })
}

/// A bundle all of whose top-k routers take `k` of at least four experts.
fn bundle(dir: &tempfile::TempDir) -> (PathBuf, u32) {
    let suits = |plan: &Plan| {
        let mut all = top_k(plan);
        let first = all.next()?;
        (first.1 >= 4 && all.all(|r| r.0 == first.0 && r.1 >= 4)).then_some(first.0)
    };
    let (seed, k) = (0..).find_map(|s| Some((s, suits(&support::plan(s, Codec::F32).plan)?))).unwrap();
    (support::bundle(dir.path(), seed, Codec::F32).path().to_owned(), k)
}

fn logits(engine: &Engine, options: &SessionOptions, tokens: &[u32]) -> Vec<f32> {
    engine.session(options).unwrap().logits(tokens).unwrap()
}

#[test]
fn any_number_of_experts_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (path, trained) = bundle(&dir);
    for device in devices() {
        let engine = Engine::open(&path, &EngineOptions { device: device.clone(), ..EngineOptions::default() }).unwrap();
        let with = |k| SessionOptions { experts_per_token: k, context: Some(64), ..SessionOptions::default() };
        let plain = logits(&engine, &with(None), &[3, 1, 4, 1, 5]);
        assert_eq!(logits(&engine, &with(Some(trained)), &[3, 1, 4, 1, 5]), plain, "{device:?}");
        let most = top_k(engine.plan()).map(|r| r.1).max().unwrap();
        assert_ne!(logits(&engine, &with(Some(most)), &[3, 1, 4, 1, 5]), plain, "{device:?}");
        for wrong in [0, most + 1] {
            let error = engine.session(&with(Some(wrong))).unwrap_err().to_string();
            assert_eq!(error, format!("experts per token of {wrong} is impossible; choose 1 to {most}"));
        }
    }
}

#[test]
fn self_contrast_combines_two_routings() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = bundle(&dir);
    let tokens = [3, 1, 4, 1, 5];
    for device in devices() {
        let engine = Engine::open(&path, &EngineOptions { device: device.clone(), ..EngineOptions::default() }).unwrap();
        let options = |contrast| SessionOptions { self_contrast: contrast, context: Some(64), ..SessionOptions::default() };
        let strong = logits(&engine, &options(None), &tokens);
        // With beta 0 and next to no mask nothing changes.
        let nothing = SelfContrast { beta: 0.0, alpha: 1e-30, rank: 2 };
        assert_eq!(logits(&engine, &options(Some(nothing)), &tokens), strong, "{device:?}");
        // Logits of the weak routing follow from beta 1: 2s − w.
        let doubled = logits(&engine, &options(Some(SelfContrast { beta: 1.0, alpha: 1e-30, rank: 2 })), &tokens);
        let half = logits(&engine, &options(Some(SelfContrast { beta: 0.5, alpha: 1e-30, rank: 2 })), &tokens);
        let differs = strong.iter().zip(&doubled).any(|(s, d)| (s - d).abs() > 1e-3);
        assert!(differs, "{device:?}: the second expert alone gives what all give");
        for ((s, d), h) in strong.iter().zip(&doubled).zip(&half) {
            assert!((h - (s + d) / 2.0).abs() < 1e-3 * (1.0 + s.abs() + d.abs()), "{device:?}: {s} {d} {h}");
        }
        // Generating reads the same logits: greedy takes the largest of the allowed ones.
        let contrast = SelfContrast { beta: 0.5, alpha: 0.1, rank: 2 };
        let all = logits(&engine, &options(Some(contrast)), &tokens);
        let last = &all[all.len() - engine.plan().vocab as usize..];
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]).then(b.cmp(&a))).unwrap();
        let mut session = engine.session(&options(Some(contrast))).unwrap();
        session.append(&tokens).unwrap();
        let mut got = Vec::new();
        session.generate(&GenerateOptions { max_tokens: 2, ..GenerateOptions::default() }, |t| got.push(t.id)).unwrap();
        assert_eq!(got[0] as usize, best, "{device:?}");
        // Taking a token back re-reads the conversation in both routings.
        session.truncate(tokens.len());
        let mut again = Vec::new();
        session.generate(&GenerateOptions { max_tokens: 2, ..GenerateOptions::default() }, |t| again.push(t.id)).unwrap();
        assert_eq!(got, again, "{device:?}");
    }
}

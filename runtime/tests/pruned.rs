//! Dropped experts: masked for a session, left out of an opened bundle, left out of a file, all the same bits; on every executor.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::reference::ReferenceModel;
use hotset::cpu::{CpuModel, CpuPaging};
use hotset::gpu::{AdapterChoice, GpuModel, GpuOptions};
use hotset::model::{Model, Output, RunOptions, Want};
use hotset::plan::{Plan, Router, Rule, Semantics};
use hotset::profile::Kept;
use support::Random;

/// Logits of a prompt at once and of tokens after it.
fn logits(model: &dyn Model, tokens: &[u32]) -> Vec<f32> {
    let mut run = model.start(RunOptions::new(64)).unwrap();
    let (prompt, answer) = tokens.split_at(tokens.len() / 2);
    let parts = std::iter::once(prompt).chain(answer.chunks(1));
    let of = |output| match output {
        Output::Logits(l) => l,
        other => panic!("{other:?}"),
    };
    parts.flat_map(|part| of(run.forward(part, Want::All).unwrap())).collect()
}

/// The fewest experts that a router must be able to choose from.
fn need(router: &Router) -> u32 {
    match router.select.rule {
        Rule::TopK { k } => k,
        Rule::Rank { rank } => rank + 1,
        Rule::TopP { .. } | Rule::NonZero | Rule::Certain { .. } => 1,
    }
}

/// A random part of the experts, in random order.
fn draw(plan: &Plan, random: &mut Random, semantics: Semantics) -> Kept {
    let mut kept = Kept { semantics, ..Kept::all(plan) };
    for (pool, ids) in kept.pools.iter_mut().enumerate() {
        for i in (1..ids.len()).rev() {
            ids.swap(i, random.below(i as u32 + 1) as usize);
        }
        let routers = || plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| r.pool as usize == pool).map(|r| &r.router);
        // Pruned already, perhaps with other semantics, and groups need more than their number says.
        if routers().any(|r| r.pruned.is_some() || r.select.groups.is_some()) {
            continue;
        }
        let least = routers().map(need).max().unwrap_or(1).max(1) as usize;
        ids.truncate((1 + random.below(ids.len() as u32) as usize).max(least));
        if plan.pools[pool].alias.as_ref().is_some_and(|a| ids.iter().all(|&e| a[e as usize].is_none())) {
            *ids = (0..plan.pools[pool].experts()).collect();
        }
    }
    kept
}

fn each(test: impl Fn(u64, Arc<Bundle>, Kept, Vec<u32>, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..60 {
        let codec = Codec::ALL[seed as usize % Codec::ALL.len()];
        let bundle = Arc::new(support::bundle(dir.path(), seed, codec));
        let mut random = Random::new(seed ^ 0xd0d0);
        let semantics = random.pick(&[Semantics::Masked, Semantics::Deleted]);
        let kept = draw(bundle.plan(), &mut random, semantics);
        let tokens = random.tokens(12, bundle.plan().vocab);
        test(seed, bundle, kept, tokens, dir.path());
    }
}

#[test]
fn masked_opened_and_written_are_the_same_bits() {
    each(|seed, bundle, kept, tokens, dir| {
        let path = dir.join("pruned.hotset");
        let view = Arc::new(bundle.pruned(&kept).unwrap_or_else(|e| panic!("seed {seed}: {e}")));
        view.write(&path, "pruned", |_, _| {}).unwrap();
        let file = Arc::new(Bundle::open(&path).unwrap());
        file.verify(|_| {}).unwrap();
        let (records, written) = (view.plan().pools.iter(), file.plan().pools.iter());
        assert!(records.map(|p| p.records).eq(written.map(|p| p.records)));
        assert!(file.len() <= bundle.len() + 16 * 1024, "seed {seed}");

        let masked = Arc::new(bundle.masked(&kept).unwrap());
        let reference = logits(&ReferenceModel::new(masked.clone()), &tokens);
        for other in [&view, &file] {
            assert_eq!(logits(&ReferenceModel::new(other.clone()), &tokens), reference, "seed {seed}");
        }
        let cpu = CpuModel::new(bundle.clone(), Some(2)).unwrap();
        let want = logits(&*cpu.view(masked).unwrap(), &tokens);
        for other in [&view, &file] {
            assert_eq!(logits(&CpuModel::new(other.clone(), Some(2)).unwrap(), &tokens), want, "seed {seed}");
        }
        // With as little memory as works.
        let paging = |budget| CpuPaging { budget, ..CpuPaging::default() };
        let least = CpuModel::paged(file.clone(), Some(2), &paging(1 << 40)).unwrap().report().paging.unwrap().least;
        assert_eq!(logits(&CpuModel::paged(file, Some(2), &paging(least + (1 << 20))).unwrap(), &tokens), want, "seed {seed}");
    });
}

#[test]
fn a_gpu_does_the_same() {
    if !support::adapter() {
        return;
    }
    let options = GpuOptions::on(AdapterChoice::Any);
    each(|seed, bundle, kept, tokens, _| {
        if seed % 4 != 0 {
            return;
        }
        let gpu = GpuModel::new(bundle.clone(), &options).unwrap();
        let view = GpuModel::new(Arc::new(bundle.pruned(&kept).unwrap()), &options).unwrap();
        let masked = gpu.view(Arc::new(bundle.masked(&kept).unwrap())).unwrap();
        let (want, got) = (logits(&view, &tokens), logits(&*masked, &tokens));
        assert_eq!(got, want, "seed {seed}");
        // Another session of the same model has all experts.
        let whole = GpuModel::new(bundle, &options).unwrap();
        assert_eq!(logits(&gpu, &tokens), logits(&whole, &tokens), "seed {seed}");
    });
}

#[test]
fn what_a_router_needs_cannot_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for seed in 0..40 {
        let bundle = support::bundle(dir.path(), seed, Codec::F32);
        let plan = bundle.plan().clone();
        for (pool, p) in plan.pools.iter().enumerate() {
            let mut kept = Kept::all(&plan);
            kept.pools[pool] = Vec::new();
            assert!(bundle.pruned(&kept).is_err(), "seed {seed}: no expert of pool {pool} left");
            kept.pools[pool] = vec![p.experts()];
            assert!(bundle.pruned(&kept).is_err(), "seed {seed}: no such expert");
            kept.pools[pool] = vec![0, 0];
            assert!(bundle.masked(&kept).is_err(), "seed {seed}: twice");
            kept.pools[pool] = vec![0];
            let routers = plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| r.pool as usize == pool);
            if routers.map(|r| need(&r.router)).max() > Some(1) {
                let error = bundle.pruned(&kept).unwrap_err().to_string();
                refused += usize::from(error.contains("cannot be left out"));
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

/// A dropped expert is not read, whether its record is left out or only masked, also where there is room for it and reads run ahead.
#[test]
fn what_is_dropped_is_never_read() {
    each(|seed, bundle, kept, tokens, _| {
        let kept_bytes = kept.bytes(&bundle);
        for prefetch in [false, true] {
            let paging = CpuPaging { budget: 1 << 30, prefetch, ..CpuPaging::default() };
            let view = CpuModel::paged(Arc::new(bundle.pruned(&kept).unwrap()), Some(2), &paging).unwrap();
            let whole = CpuModel::paged(bundle.clone(), Some(2), &paging).unwrap();
            let masked = whole.view(Arc::new(bundle.masked(&kept).unwrap())).unwrap();
            assert_eq!(logits(&view, &tokens), logits(&*masked, &tokens), "seed {seed}");
            for model in [&view as &dyn Model, &whole] {
                let read = model.report().paging.unwrap().bytes_read;
                assert!(read <= kept_bytes, "seed {seed}: {read} bytes read, {kept_bytes} are kept");
            }
        }
    });
}

/// What a model uses is the same on a GPU, resident and paged, and on the CPU; only the CPU measures lengths of outputs.
#[test]
fn use_is_counted_alike_everywhere() {
    if !support::adapter() {
        return;
    }
    each(|seed, bundle, _, tokens, _| {
        // In other codecs devices round otherwise, and a close choice may go the other way.
        if seed % 3 != 0 || bundle.plan().pools.iter().any(|p| p.codec != Codec::F32) {
            return;
        }
        let used = |model: &dyn Model| {
            let mut run = model.start(RunOptions::new(64)).unwrap();
            run.record_use().unwrap();
            let (prompt, answer) = tokens.split_at(tokens.len() / 2);
            std::iter::once(prompt).chain(answer.chunks(1)).for_each(|part| drop(run.forward(part, Want::Last).unwrap()));
            run.take_use().unwrap()
        };
        let cpu = used(&CpuModel::new(bundle.clone(), Some(2)).unwrap());
        let options = GpuOptions::on(AdapterChoice::Any);
        let resident = GpuModel::new(bundle.clone(), &options).unwrap();
        let large = GpuOptions { budget: Some(1 << 30), ..options.clone() };
        let paged = GpuModel::new(bundle.clone(), &large).unwrap();
        let least = paged.report().paging.unwrap().least;
        let small = GpuModel::new(bundle.clone(), &GpuOptions { budget: Some(least + (1 << 20)), ..options }).unwrap();
        for gpu in [used(&resident), used(&paged), used(&small)] {
            assert_eq!(gpu.tokens, cpu.tokens, "seed {seed}");
            for (a, b) in gpu.steps.iter().zip(&cpu.steps) {
                assert_eq!((&a.selections, &a.next, &a.chunks), (&b.selections, &b.next, &b.chunks), "seed {seed}, {}", a.name);
                assert!(a.gate.iter().zip(&b.gate).all(|(x, y)| (x - y).abs() <= 1e-3 * (1.0 + y.abs())), "seed {seed}, {}", a.name);
                assert!(a.saliency.is_none() && (b.saliency.is_some() || b.selections.iter().all(|n| *n == 0)), "seed {seed}, {}", a.name);
            }
        }
    });
}

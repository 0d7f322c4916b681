//! Experts under a budget: whatever the budget, the policy, how far tokens run ahead and which way records come, not a bit of any result
//! changes.

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotset::Error;
use hotset::bundle::{Bundle, Reading};
use hotset::codec::Codec;
use hotset::experts::Policy;
use hotset::gpu::{AdapterChoice, GpuModel, GpuOptions, Placement};
use hotset::model::{Best, Model, Output, Paging, Run, RunOptions, Want};
use hotset::plan::{Part, Plan, Work};

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
    model.start(RunOptions::new(CONTEXT)).unwrap()
}

fn paging(model: &GpuModel) -> Paging {
    model.report().paging.unwrap()
}

fn everything(bundle: &Bundle) -> u64 {
    (0..).zip(&bundle.plan().pools).map(|(i, p)| u64::from(p.records) * bundle.record_layout(i).bytes as u64).sum()
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

/// Random plans that have experts, each step three times over so that there is something to run ahead of, in all codecs.
fn plans(dir: &Path, n: usize) -> impl Iterator<Item = (u64, Arc<Bundle>)> {
    plans_where(dir, n, |p| p.pools.iter().any(|p| p.records > 3))
}

/// Those of them that work with half of their experts.
fn spacious_plans(dir: &Path, n: usize) -> impl Iterator<Item = (u64, Arc<Bundle>)> {
    let spacious = |plan: &Plan| {
        let mut routed = plan.steps.iter().filter_map(|s| s.routed.as_ref()).peekable();
        routed.peek().is_some()
            && routed.all(|r| {
                let pool = &plan.pools[r.pool as usize];
                2 * r.router.max_routes(pool.experts()) <= pool.records
            })
    };
    plans_where(dir, n, spacious)
}

fn plans_where(dir: &Path, n: usize, suits: impl Fn(&Plan) -> bool) -> impl Iterator<Item = (u64, Arc<Bundle>)> {
    let deep = move |seed: u64| {
        let mut model = support::plan(seed, Codec::ALL[seed as usize % Codec::ALL.len()]);
        let plan = &mut model.plan;
        for mut step in [plan.steps.clone(), plan.steps.clone()].concat() {
            step.name = format!("{}.{}", step.name, plan.steps.len());
            let state = match &mut step.work {
                Work::Attention(a) => Some(&mut a.state),
                Work::Convolution(c) => Some(&mut c.state),
                Work::Ffn(_) | Work::Identity => None,
            };
            if let Some(state) = state {
                plan.states.push(plan.states[*state as usize].clone());
                *state = plan.states.len() as u32 - 1;
            }
            plan.steps.push(step);
        }
        (seed, model)
    };
    let models = (100u64..).map(deep).filter(move |(_, m)| suits(&m.plan));
    models.map(move |(seed, m)| (seed, Arc::new(m.write(dir, seed)))).take(n)
}

/// Budgets from the smallest to everything, every policy, every way of running ahead, every way of bringing records.
#[test]
fn budgets_change_no_bit() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut missed, mut routed_attention) = (0, 0);
    let modules = plans_where(dir.path(), 4, |p| support::attends(p, |a| !matches!(a.o, Part::Shared(_))));
    for (i, (seed, bundle)) in plans(dir.path(), 12).chain(modules).enumerate() {
        let tokens = prompt(seed, &bundle);
        // Now and then a region cannot hold what a token needs at a step.
        let any = GpuOptions { binding_limit: (i % 5 == 4).then_some(80 << 10), ..any() };
        let want = conversation(&mut *start(&open(&bundle, &any)), &tokens);
        let run_ahead = [Some(1), Some(3), Some(1000), None][i % 4];
        let (policy, import) = (Policy::ALL[i % 3], i % 2 == 0);
        let reading = [Reading::Direct, Reading::Buffered, Reading::Mapped][i / 4 % 3];
        let model = open(&bundle, &GpuOptions { policy, run_ahead, import, reading, budget: Some(1 << 40), ..any });
        let mut run = start(&model);
        let (least, most) = (paging(&model).least, paging(&model).fixed + everything(&bundle));
        for budget in [most, least, least + (most - least) / 3, least + (most - least) * 2 / 3, most] {
            model.set_budget(budget).unwrap();
            let got = conversation(&mut *run, &tokens);
            assert!(got == want, "seed {seed}: {budget} of {least} to {most} bytes, {policy}, {run_ahead:?}, import {import}");
            let p = paging(&model);
            assert_eq!(p.budget, budget);
            assert!(model.report().device_bytes <= budget);
        }
        missed += paging(&model).counts.misses;
        routed_attention += bundle.plan().steps.iter().filter(|s| s.routed.is_some() && matches!(s.work, Work::Attention(_))).count();
    }
    assert!(missed > 1000, "hardly anything was paged: {missed}");
    assert!(routed_attention > 6, "hardly any attention was routed: {routed_attention}");
}

/// The CPU computes what is missing: near the resident model, and not the same bits.
#[test]
fn a_cpu_that_helps_computes_nearly_the_same() {
    if !support::adapter() {
        return;
    }
    let (dir, mut computed) = (tempfile::tempdir().unwrap(), 0);
    for seed in 0..24 {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::F32));
        let tokens = prompt(seed, &bundle);
        let say = |model: &GpuModel| {
            let mut run = start(model);
            let forward = |t: &u32| match run.forward(&[*t], Want::Last).unwrap() {
                Output::Logits(l) => l,
                other => panic!("{other:?}"),
            };
            tokens.iter().flat_map(forward).collect::<Vec<f32>>()
        };
        let want = say(&open(&bundle, &any()));
        let model = open(&bundle, &GpuOptions { placement: Placement::Hybrid, ..with(1 << 40) });
        let run = start(&model);
        model.set_budget(paging(&model).least).unwrap();
        drop(run);
        let got = say(&model);
        let scale = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt();
        let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3 * scale, "seed {seed}: {worst} of {scale}");
        computed += paging(&model).computed;
    }
    assert!(computed > 20, "the CPU hardly helped: {computed}");
}

/// The system's memory between the file and the GPU: nothing is read twice.
#[test]
fn what_leaves_the_gpu_stays_in_the_systems_memory() {
    if !support::adapter() {
        return;
    }
    let (dir, mut hits) = (tempfile::tempdir().unwrap(), 0);
    for (seed, bundle) in spacious_plans(dir.path(), 5) {
        let tokens = prompt(seed, &bundle);
        let want = conversation(&mut *start(&open(&bundle, &any())), &tokens);
        let everything = everything(&bundle);
        for (import, host) in [(false, everything), (true, everything), (true, everything / 2)] {
            let model = open(&bundle, &GpuOptions { import, host_budget: Some(host), ..with(1 << 40) });
            let mut run = start(&model);
            model.set_budget(paging(&model).least).unwrap();
            for _ in 0..2 {
                assert!(conversation(&mut *run, &tokens) == want, "seed {seed}");
            }
            let p = paging(&model);
            hits += p.host.hits;
            assert!(host < everything || p.bytes_read <= everything, "{p:?}");
        }
        assert!(GpuModel::new(bundle.clone(), &GpuOptions { host_budget: Some(1), ..with(1 << 40) }).is_err());
    }
    assert!(hits > 100, "hardly anything came back: {hits}");
}

/// A prompt of several batches, each step's experts in many waves.
#[test]
fn long_prompts_come_in_waves() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, bundle) in plans(dir.path(), 3) {
        let tokens = support::Random::new(seed).tokens(300, bundle.plan().vocab);
        let say = |options: &GpuOptions| {
            let model = GpuModel::new(bundle.clone(), options)?;
            let mut run = model.start(RunOptions::new(300))?;
            let Output::Logits(l) = run.forward(&tokens, Want::All)? else { panic!("no logits") };
            Ok::<_, Error>(l.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        };
        let want = say(&any()).unwrap();
        for import in [false, true] {
            let with = |budget| GpuOptions { import, ..with(budget) };
            let least = least_of(say(&with(1)).unwrap_err());
            // That is enough for the weights, not for a session.
            let least = say(&with(least)).err().map_or(least, least_of);
            assert!(say(&with(least)).unwrap() == want, "seed {seed}, import {import}");
        }
    }
}

/// The number of bytes that an error about a small budget names.
fn least_of(e: Error) -> u64 {
    let message = e.to_string();
    let number = message.split("--vram ").nth(1).unwrap_or_else(|| panic!("{message}")).split('`').next().unwrap();
    number.parse().unwrap()
}

/// A budget too small for the weights, for a session, or for a change on the way: the error names what works, to the byte.
#[test]
fn small_budgets_name_the_least() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for ((_, bundle), policy) in plans(dir.path(), 3).zip(Policy::ALL) {
        names_the_least(&bundle, policy);
    }
}

fn names_the_least(bundle: &Arc<Bundle>, policy: Policy) {
    let with = |budget| GpuOptions { policy, ..with(budget) };
    let fail = |budget| least_of(GpuModel::new(bundle.clone(), &with(budget)).err().unwrap());
    let least = fail(1);
    assert_eq!(fail(least - 1), least);
    let model = open(bundle, &with(least));
    let options = RunOptions::new(CONTEXT);
    let more = least_of(model.start(options).err().unwrap());
    assert!(more > least);
    assert_eq!(least_of(model.set_budget(least - 1).unwrap_err()), least);
    model.set_budget(more).unwrap();
    let run = model.start(options).unwrap();
    // A second one does not fit until the first is gone.
    assert!(least_of(model.start(options).err().unwrap()) > more);
    assert_eq!(least_of(model.set_budget(least).unwrap_err()), more);
    drop(run);
    model.start(options).unwrap();
    let most = least_of(GpuModel::new(bundle.clone(), &GpuOptions { placement: Placement::Resident, ..with(least) }).err().unwrap());
    assert_eq!(most, paging(&model).fixed + everything(bundle));
    let resident = open(bundle, &GpuOptions { placement: Placement::Resident, ..with(most) });
    assert_eq!(least_of(resident.set_budget(most - 1).unwrap_err()), most);
    assert!(open(bundle, &any()).set_budget(most).is_err());
}

/// With room for everything a token costs one synchronisation and nothing is read twice.
#[test]
fn a_resident_token_synchronises_once() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (_, bundle) in plans(dir.path(), 2) {
        let model = open(&bundle, &with(1 << 40));
        let mut run = start(&model);
        let wish = Best { count: 1, penalised: Vec::new(), penalty: 1.0, inverse_temperature: 1.0 };
        run.forward(&[1], Want::Best(&wish)).unwrap();
        let before = paging(&model);
        assert_eq!(before.bytes_read, everything(&bundle));
        for t in 2..7 {
            run.forward(&[t], Want::Best(&wish)).unwrap();
        }
        let after = paging(&model);
        assert_eq!(after.synchronisations - before.synchronisations, 5);
        assert_eq!((after.bytes_read, after.counts.misses), (before.bytes_read, 0));
        assert!(after.counts.hits > before.counts.hits);
    }
}

/// What an earlier run learned brings its experts back before they are missed.
#[test]
fn heat_is_a_warm_start() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, bundle) in spacious_plans(dir.path(), 2) {
        let tokens = prompt(seed, &bundle);
        let cold = open(&bundle, &with(1 << 40));
        let mut run = start(&cold);
        let budget = paging(&cold).fixed + everything(&bundle) * 3 / 4;
        cold.set_budget(budget).unwrap();
        let want = conversation(&mut *run, &tokens);
        let warm = open(&bundle, &with(budget));
        warm.set_heat(&cold.heat().unwrap()).unwrap();
        assert!(conversation(&mut *start(&warm), &tokens) == want);
        let [cold, misses] = [paging(&cold).counts.misses, paging(&warm).counts.misses];
        assert!(misses < cold, "{misses} of {cold}");
        assert!(warm.set_heat("{}").is_err());
        assert_eq!(open(&bundle, &any()).heat(), None);
    }
}

/// The budget changes while two conversations are under way, each on a thread of its own.
#[test]
fn budgets_change_under_way() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (seed, bundle) in plans(dir.path(), 3) {
        let tokens = [prompt(seed, &bundle), prompt(seed + 1, &bundle)];
        let want = tokens.each_ref().map(|t| conversation(&mut *start(&open(&bundle, &any())), t));
        let model = open(&bundle, &GpuOptions { import: seed % 2 == 0, ..with(1 << 40) });
        let mut runs = [start(&model), start(&model)];
        let (least, most) = (paging(&model).least, paging(&model).fixed + everything(&bundle));
        let left = AtomicUsize::new(2);
        std::thread::scope(|s| {
            for ((run, tokens), want) in runs.iter_mut().zip(&tokens).zip(&want) {
                let left = &left;
                s.spawn(move || {
                    let same = (0..3).all(|_| conversation(&mut **run, tokens) == *want);
                    left.fetch_sub(1, Ordering::Relaxed);
                    assert!(same, "seed {seed}");
                });
            }
            let mut random = support::Random::new(seed);
            while left.load(Ordering::Relaxed) > 0 {
                model.set_budget(least + random.next() % (most - least + 1)).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        model.set_budget(least).unwrap();
        assert_eq!(paging(&model).budget, least);
        assert!(model.report().device_bytes <= least);
    }
}

/// A file that is cut short under way is an error that changes nothing; when it is whole again, so is the conversation.
#[test]
fn unreadable_experts_are_an_error_that_passes() {
    if !support::adapter() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let modules = plans_where(dir.path(), 2, |p| support::attends(p, |a| a.k == Part::Expert));
    for (seed, bundle) in plans(dir.path(), 4).chain(modules) {
        let path = dir.path().join(format!("{seed}.hotset"));
        let whole = std::fs::read(&path).unwrap();
        let tokens = prompt(seed, &bundle);
        let want = conversation(&mut *start(&open(&bundle, &any())), &tokens);
        let model = open(&bundle, &GpuOptions { import: seed % 2 == 0, ..with(1 << 40) });
        let mut run = start(&model);
        model.set_budget(paging(&model).least).unwrap();
        let experts = (0..bundle.plan().pools.len()).map(|p| bundle.record_range(p, 0).start).min().unwrap();
        for batch in [1, 13] {
            run.reset();
            run.forward(&tokens[..2], Want::Nothing).unwrap();
            // Cut between the dense weights, which nobody reads any more, and the experts.
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(experts as u64).unwrap();
            model.set_budget(paging(&model).least).unwrap();
            for _ in 0..3 {
                let e = run.forward(&tokens[..batch], Want::Last).unwrap_err();
                assert!(matches!(e, Error::Io { .. }), "{e}");
                assert_eq!(run.position(), 2);
            }
            std::fs::write(&path, &whole).unwrap();
            assert!(conversation(&mut *run, &tokens) == want, "seed {seed}");
        }
    }
}

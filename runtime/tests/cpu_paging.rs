//! Experts under a budget on the CPU: whatever the budget, the policy and the way of reading, results are the same bits.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hotset::Error;
use hotset::bundle::{Bundle, Reading};
use hotset::codec::Codec;
use hotset::cpu::{CpuModel, CpuPaging};
use hotset::experts::Policy;
use hotset::model::{Model, Output, RunOptions, Want};
use hotset::plan::{Attention, Embedding, Feature, Plan, Score, Step, Stream, Work};
use proptest::prelude::*;

use support::Random;

const WHOLE: RunOptions = RunOptions::new(512);

/// The bits of the logits after every token, fed in pieces of the given length; `between` is called before each piece.
fn bits(model: &dyn Model, tokens: &[u32], pieces: usize, mut between: impl FnMut()) -> Result<Vec<u32>, Error> {
    let mut run = model.start(WHOLE)?;
    let mut out = Vec::new();
    for piece in tokens.chunks(pieces) {
        between();
        match run.forward(piece, Want::All)? {
            Output::Logits(l) => out.extend(l.iter().map(|v| v.to_bits())),
            other => panic!("{other:?}"),
        }
    }
    Ok(out)
}

fn paging(budget: u64) -> CpuPaging {
    CpuPaging { budget, ..CpuPaging::default() }
}

fn open(bundle: &Arc<Bundle>, paging: &CpuPaging) -> Result<CpuModel, Error> {
    CpuModel::paged(bundle.clone(), Some(2), paging)
}

/// The smallest budget of a bundle, as the error about a smaller one names it.
fn least(bundle: &Arc<Bundle>) -> u64 {
    let message = open(bundle, &paging(0)).unwrap_err().to_string();
    let bytes = message.split("works is ").nth(1).and_then(|s| s.split(' ').next()).unwrap();
    bytes.parse().unwrap()
}

/// The bytes of the caches after `tokens` tokens, which a budget must hold too, where every token has a row in each.
fn caches(model: &dyn Model, tokens: usize) -> u64 {
    model.report().cache_bytes_per_token * (tokens as u64).next_multiple_of(32)
}

/// At most so many bytes more: each expert with rows of its own begins a block, and convolutions keep what they saw last.
fn slack(bundle: &Bundle) -> u64 {
    let plan = bundle.plan();
    let step = |s: &Step| match &s.work {
        Work::Attention(a) if ragged(plan, a) => {
            let (state, pool) = (&plan.states[a.state as usize], s.routed.as_ref().unwrap().pool as usize);
            plan.pools[pool].experts() * state.kv_heads * 2 * state.head_dim.next_multiple_of(32) * 4 * 32
        }
        Work::Convolution(c) => 2 * (c.taps - 1) * plan.width * 4,
        _ => 0,
    };
    plan.steps.iter().map(step).sum::<u32>().into()
}

fn ragged(plan: &Plan, a: &Attention) -> bool {
    plan.states[a.state as usize].grouped
}

fn has_ragged(plan: &Plan) -> bool {
    plan.steps.iter().any(|s| matches!(&s.work, Work::Attention(a) if ragged(plan, a)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn no_budget_changes_a_bit(
        seed in 0u64..400,
        codec in proptest::sample::select(&Codec::ALL[..]),
        share in 0.0f64..1.1,
        policy in proptest::sample::select(&Policy::ALL[..]),
        reading in proptest::sample::select(&[Reading::Direct, Reading::Buffered, Reading::Mapped][..]),
        prefetch in any::<bool>(),
        pieces in 1usize..40,
        moving in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Arc::new(support::bundle(dir.path(), seed, codec));
        let tokens = Random::new(seed).tokens(40, bundle.plan().vocab);
        let resident = CpuModel::new(bundle.clone(), Some(2)).unwrap();
        let want = bits(&resident, &tokens, 40, || {}).unwrap();

        let least = least(&bundle) + caches(&resident, tokens.len()) + slack(&bundle);
        let budget = least + (bundle.len() as f64 * share) as u64;
        let model = open(&bundle, &CpuPaging { budget, policy, reading, prefetch, resident: false }).unwrap();
        let mut random = Random::new(seed);
        let between = || {
            if moving {
                let least = model.report().paging.unwrap().least + caches(&resident, tokens.len()) + slack(&bundle);
                model.set_budget(least + u64::from(random.below(1 << 16))).unwrap();
            }
        };
        prop_assert!(bits(&model, &tokens, pieces, between).unwrap() == want);
        let report = model.report().paging.unwrap();
        prop_assert!(report.fixed + report.slots <= report.budget, "{:?}", report);
    }
}

#[test]
fn a_budget_that_moves_from_another_thread_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 3, Codec::Q8));
    let tokens = Random::new(3).tokens(60, bundle.plan().vocab);
    let want = bits(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), &tokens, 60, || {}).unwrap();
    let model = open(&bundle, &paging(1 << 30)).unwrap();
    let (least, most) = (model.report().paging.unwrap().least + 2 * caches(&model, tokens.len()), 1 << 30);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..2000 {
                model.set_budget(if i % 2 == 0 { least } else { most }).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        // Two conversations at once share the experts.
        let both = [1, 7].map(|pieces| {
            s.spawn({
                let (model, tokens) = (&model, &tokens);
                move || bits(model, tokens, pieces, || {}).unwrap()
            })
        });
        let both = both.map(|b| b.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(both.iter().all(|got| *got == want));
    });
}

#[test]
fn too_small_a_budget_names_the_smallest_and_that_one_works() {
    let exact = |seed: &u64| {
        let plan = support::plan(*seed, Codec::Q4).plan;
        !has_ragged(&plan) && !plan.steps.iter().any(|s| matches!(s.work, Work::Convolution(_)))
    };
    for seed in (0..).filter(exact).take(12) {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::Q4));
        let least = least(&bundle);
        assert!(matches!(open(&bundle, &paging(least - 1)), Err(Error::Input(_))));
        let model = open(&bundle, &paging(least)).unwrap();
        // Not a byte is left for caches: the first token says so, and the run goes on once there is room.
        let mut run = model.start(WHOLE).unwrap();
        let error = run.forward(&[0], Want::Last).unwrap_err();
        assert!(error.to_string().contains("too small"), "{error}");
        assert_eq!(run.position(), 0);
        model.set_budget(least + caches(&model, 1)).unwrap();
        run.forward(&[0], Want::Last).unwrap();
        // What a conversation took comes back with its end.
        let before = model.report().paging.unwrap().fixed;
        drop(run);
        assert_eq!(model.report().paging.unwrap().fixed, before - caches(&model, 1));
    }
}

/// Routers that look at a stream nothing writes: the whole choice of a token is known, and ordered, before the first step.
#[test]
fn choices_known_ahead_are_read_ahead() {
    let suits = |p: &Plan| {
        let mut routed = p.steps.iter().filter_map(|s| s.routed.as_ref()).peekable();
        let any = p.streams.is_empty() && p.steps[0].routed.is_none() && routed.peek().is_some();
        any && routed.all(|r| !matches!(r.router.score, Score::Recurrent { .. }))
    };
    let dir = tempfile::tempdir().unwrap();
    for seed in (0..).filter(|s| suits(&support::plan(*s, Codec::Q8).plan)).take(6) {
        let mut model = support::plan(seed, Codec::Q8);
        let embedding = Some(Embedding::new("embedding".into(), 1.0));
        model.plan.streams.push(Stream { width: model.plan.width, embedding });
        model.plan.steps.iter_mut().filter_map(|s| s.routed.as_mut()).for_each(|r| r.router.feature = Feature::Stream(1));
        let bundle = Arc::new(model.write(dir.path(), seed));
        let tokens = Random::new(seed).tokens(20, bundle.plan().vocab);
        let want = bits(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), &tokens, 20, || {}).unwrap();
        let misses = |prefetch| {
            let model = open(&bundle, &CpuPaging { prefetch, ..paging(1 << 30) }).unwrap();
            assert!(bits(&model, &tokens, 1, || {}).unwrap() == want, "seed {seed}");
            model.report().paging.unwrap().counts.misses
        };
        assert!(misses(true) == 0 && misses(false) > 0, "seed {seed}: {} {}", misses(true), misses(false));
    }
}

#[test]
fn ragged_rows_count_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    for seed in (0..).filter(|s| has_ragged(&support::plan(*s, Codec::Q8).plan)).take(6) {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::Q8));
        let tokens = Random::new(seed).tokens(50, bundle.plan().vocab);
        let want = bits(&CpuModel::new(bundle.clone(), Some(2)).unwrap(), &tokens, 50, || {}).unwrap();
        let model = open(&bundle, &paging(1 << 30)).unwrap();
        let fixed = || model.report().paging.unwrap().fixed;
        let (before, mut run) = (fixed(), model.start(WHOLE).unwrap());
        let mut taken: Vec<u64> = Vec::new();
        for &t in &tokens {
            run.forward(&[t], Want::Nothing).unwrap();
            taken.push(fixed() - before);
        }
        assert!(taken.is_sorted() && taken[0] < taken[49] && taken[49] <= caches(&model, 50) + slack(&bundle), "seed {seed}: {taken:?}");
        run.reset();
        assert_eq!(fixed(), before);
        // Whatever the budget lacks, the run is as it was, and goes on when there is more.
        let least = model.report().paging.unwrap().least;
        let (mut run, mut got, mut refused) = (model.start(WHOLE).unwrap(), Vec::new(), 0);
        for piece in tokens.chunks(10) {
            let mut budget = least;
            loop {
                model.set_budget(budget.max(model.report().paging.unwrap().least)).unwrap();
                match run.forward(piece, Want::All) {
                    Ok(Output::Logits(l)) => break got.extend(l.iter().map(|v| v.to_bits())),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert!(error.to_string().contains("too small"), "{error}"),
                }
                (budget, refused) = (budget + 1000, refused + 1);
            }
        }
        assert!(got == want && refused > 0, "seed {seed}: {refused} refusals");
    }
}

#[test]
fn resident_wants_room_for_everything_and_then_reads_each_expert_once() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 3, Codec::Q8));
    let experts = open(&bundle, &paging(1 << 30)).unwrap().report().paging.unwrap().experts;
    let with = |budget| open(&bundle, &CpuPaging { budget, resident: true, ..CpuPaging::default() });
    let message = with(least(&bundle)).unwrap_err().to_string();
    assert!(message.contains("too small"), "{message}");
    let model = with(1 << 30).unwrap();
    let tokens = Random::new(3).tokens(60, bundle.plan().vocab);
    bits(&model, &tokens, 1, || {}).unwrap();
    assert!(model.report().paging.unwrap().bytes_read <= experts);
}

#[test]
fn heat_brings_back_what_an_earlier_run_used() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 3, Codec::Q8));
    let tokens = Random::new(3).tokens(60, bundle.plan().vocab);
    let cold = open(&bundle, &paging(1 << 30)).unwrap();
    let want = bits(&cold, &tokens, 1, || {}).unwrap();
    let warm = open(&bundle, &paging(1 << 30)).unwrap();
    warm.set_heat(&cold.heat().unwrap()).unwrap();
    assert!(bits(&warm, &tokens, 1, || {}).unwrap() == want);
    let (cold, warm) = (cold.report().paging.unwrap(), warm.report().paging.unwrap());
    // What was hardly ever used is not worth bringing before anybody asks.
    assert!(warm.counts.misses < cold.counts.misses, "{warm:?}, {cold:?}");
    assert!(open(&bundle, &paging(1 << 30)).unwrap().set_heat("{}").is_err());
}

#[test]
fn a_file_that_shrinks_is_an_error_and_the_run_goes_on_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    drop(support::bundle(dir.path(), 5, Codec::F32));
    let path = dir.path().join("5.hotset");
    let whole = std::fs::read(&path).unwrap();
    let want = {
        let bundle = Arc::new(Bundle::open(&path).unwrap());
        let tokens = Random::new(5).tokens(20, bundle.plan().vocab);
        bits(&CpuModel::new(bundle, Some(1)).unwrap(), &tokens, 1, || {}).unwrap()
    };
    let mut bundle = Bundle::open(&path).unwrap();
    bundle.hold_dense().unwrap();
    let bundle = Arc::new(bundle);
    let tokens = Random::new(5).tokens(20, bundle.plan().vocab);
    for reading in [Reading::Direct, Reading::Buffered] {
        let least = least(&bundle);
        let model = open(&bundle, &CpuPaging { budget: least + (1 << 20), reading, ..CpuPaging::default() }).unwrap();
        let mut run = model.start(WHOLE).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bundle.record_range(0, 0).start as u64).unwrap();
        let error = run.forward(&tokens[..1], Want::Last).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(run.position(), 0);
        std::fs::write(&path, &whole).unwrap();
        assert!(bits(&model, &tokens, 1, || {}).unwrap() == want);
        assert!(matches!(run.forward(&tokens, Want::Last), Ok(Output::Logits(_))));
    }
}

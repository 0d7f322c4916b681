//! The store against a simulated device.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::plan::Plan;

/// A plan that only routes: pools of (records, routes), a step for each entry of `steps`.
fn plan(pools: &[(u32, u32)], steps: &[usize]) -> Plan {
    let pool = |(i, &(records, _)): (usize, &(u32, u32))| serde_json::json!({"name": format!("p{i}"), "codec": "f32", "records": records, "expert": {"ffn": {"hidden": 16, "gated": false, "activation": "relu"}}});
    let step = |(i, &p): (usize, &usize)| {
        serde_json::json!({
            "name": format!("s{i}"), "scale": 1.0,
            "routed": {"pool": p, "router": {
                "score": {"linear": {"weight": "w"}}, "select": {"by": "logit", "rule": {"top_k": {"k": pools[p].1}}},
                "weigh": {"by": "softmax", "normalise": false, "scale": 1.0}}},
            "work": {"ffn": {}},
        })
    };
    serde_json::from_value(serde_json::json!({
        "version": 1, "width": 32, "vocab": 8, "embedding": {"table": "e", "scale": 1.0}, "states": [],
        "pools": pools.iter().enumerate().map(pool).collect::<Vec<_>>(),
        "steps": steps.iter().enumerate().map(step).collect::<Vec<_>>(),
        "head": {"norm": {"rms": {"weight": "n", "eps": 1e-6}}, "output": {"weight": "e"}, "scale": 1.0},
    }))
    .expect("a plan")
}

fn catalogue(pools: &[(u32, u32)], sizes: &[u64], steps: &[usize]) -> Arc<Catalogue> {
    Arc::new(Catalogue::new(&plan(pools, steps), |p| sizes[p % sizes.len()]))
}

/// Layers of one size, each with its own pool.
fn layers(n: usize, records: u32, routes: u32) -> Arc<Catalogue> {
    catalogue(&vec![(records, routes); n], &[100], &(0..n).collect::<Vec<_>>())
}

/// A small generator, so that traces are the same everywhere.
fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as u32
}

/// Passes whose routes prefer low numbers, the more the larger `skew`, and repeat those of the pass before with `repeat` percent.
fn passes(c: &Catalogue, n: usize, skew: u32, repeat: u32) -> Vec<Pass> {
    let (mut state, mut out) = (7, Vec::<Pass>::new());
    for _ in 0..n {
        let step = |(i, pool): (usize, &Option<usize>)| {
            let p = &c.pools()[pool.expect("routed")];
            let before = out.last().map_or(&[][..], |pass: &Pass| &pass.0[i]);
            let mut records: Vec<u32> = before.iter().copied().filter(|_| random(&mut state) % 100 < repeat).collect();
            while records.len() < p.routes as usize {
                let r = (0..=skew).map(|_| random(&mut state) % p.records).min().expect("one");
                if !records.contains(&r) {
                    records.push(r);
                }
            }
            records.sort_unstable();
            records
        };
        let pass = Pass(c.steps().iter().enumerate().map(step).collect());
        out.push(pass);
    }
    out
}

fn half(c: &Catalogue) -> Layout {
    Layout::new(c, c.bytes() / 2, Sharing::Shared, u64::MAX).expect("enough")
}

#[test]
fn below_one_tokens_demand_a_shared_lru_hits_nothing_and_the_guard_cures_it() {
    let c = layers(8, 16, 4);
    let trace = passes(&c, 60, 3, 60);
    // What was used first at a step may come up last in the next pass, so a step's routes less are what makes it exact.
    let budget = c.token_bytes() - 400;
    let layout = |sharing| Layout::new(&c, budget, sharing, u64::MAX).expect("enough");
    assert_eq!(replay(&c, &layout(Sharing::Shared), Policy::Lru, &trace).counts.hits, 0);
    assert_eq!(Sharing::best(Policy::Lru, &c, budget), Sharing::PerPool);
    // Some of what repeats is still there.
    let guarded = replay(&c, &layout(Sharing::PerPool), Policy::Lru, &trace);
    assert!(guarded.counts.hit_rate() > Some(0.2), "{guarded:?}");
    assert!(replay(&c, &layout(Sharing::Shared), Policy::NextUse, &trace).counts.hit_rate() > Some(0.2));
}

#[test]
fn the_default_policy_beats_lru_and_nothing_beats_the_optimum() {
    let c = layers(8, 16, 4);
    for (skew, repeat) in [(0, 0), (0, 50), (2, 0), (2, 50), (4, 20)] {
        let (trace, layout) = (passes(&c, 200, skew, repeat), half(&c));
        let rate = |policy| replay(&c, &layout, policy, &trace).counts.hit_rate().expect("something was wanted");
        let best = optimum(&c, &layout, &trace).counts.hit_rate().expect("something was wanted");
        let rates = Policy::ALL.map(rate);
        assert!(rates[0] > rates[1] + 0.01, "skew {skew}, repeat {repeat}: {rates:?}, at best {best}");
        assert!(rates.iter().all(|r| *r <= best), "skew {skew}, repeat {repeat}: {rates:?}, at best {best}");
    }
}

#[test]
fn with_room_for_everything_each_record_is_brought_once() {
    let c = layers(4, 8, 2);
    let (trace, layout) = (passes(&c, 100, 0, 0), Layout::new(&c, c.bytes(), Sharing::Shared, u64::MAX).expect("enough"));
    for policy in Policy::ALL {
        assert_eq!(replay(&c, &layout, policy, &trace).counts.misses, 32);
    }
    assert_eq!(optimum(&c, &layout, &trace).counts.misses, 32);
}

#[test]
fn what_is_expected_does_not_push_out_what_is_expected() {
    let c = layers(3, 4, 1);
    let mut tier = Tier::new(c.clone(), &Layout::new(&c, 200, Sharing::Shared, u64::MAX).expect("enough"), Policy::NextUse);
    let [now, next, later] = [c.id(0, 0), c.id(1, 0), c.id(2, 0)];
    tier.begin_pass();
    tier.want(0, &[now]);
    tier.expect([next, later]);
    assert!(tier.admit(now).is_some() && tier.admit_expected(next).is_some());
    tier.unpin(next);
    assert_eq!(tier.admit_expected(later), None, "there are two slots");
    // Its turn is over: it makes room.
    tier.want(1, &[next]);
    tier.unpin(now);
    assert_eq!(tier.admit_expected(later).map(|a| a.1), Some(Some(now)));
}

#[test]
fn what_a_router_expects_stays() {
    let c = layers(2, 4, 1);
    let mut tier = Tier::new(c.clone(), &Layout::new(&c, 200, Sharing::Shared, u64::MAX).expect("enough"), Policy::NextUse);
    let (a, b) = (c.id(1, 0), c.id(1, 1));
    tier.begin_pass();
    for r in [a, b] {
        assert_eq!(tier.want(1, &[r]), [r]);
        assert!(tier.admit(r).is_some_and(|(_, gone)| gone.is_none()));
        tier.unpin(r);
    }
    for _ in 0..3 {
        tier.want(1, &[b]);
        tier.unpin(b);
    }
    // `b` is hotter, but `a` is expected.
    tier.begin_pass();
    let new = c.id(0, 0);
    assert_eq!(tier.want(0, &[new]), [new]);
    tier.expect([a]);
    assert_eq!(tier.admit(new).and_then(|(_, gone)| gone), Some(b));
}

#[test]
fn the_smallest_budget_is_one_tokens_routes_at_each_size() {
    let c = catalogue(&[(8, 2), (8, 3), (4, 1)], &[100, 100, 40], &[0, 1, 2]);
    assert_eq!(Layout::new(&c, 339, Sharing::Shared, u64::MAX), Err(340));
    assert_eq!(Layout::new(&c, 340, Sharing::Shared, u64::MAX).map(|l| l.bytes()), Ok(340));
    assert_eq!(Layout::new(&c, 239, Sharing::PerPool, u64::MAX), Err(240));
}

/// More bytes never hurt, even where regions are small and a budget asks for many of them.
#[test]
fn every_budget_from_the_least_on_works() {
    let c = catalogue(&[(9, 4), (7, 2), (8, 3), (4, 4), (6, 1)], &[100, 100, 40], &[0, 1, 2, 3, 4]);
    for region in [300, 400, 500, 900, u64::MAX] {
        let least = Layout::new(&c, 0, Sharing::Shared, region).expect_err("nothing fits in nothing");
        for budget in 0..=c.bytes() {
            match Layout::new(&c, budget, Sharing::Shared, region) {
                Ok(layout) => assert!((least..=budget).contains(&layout.bytes()), "{budget} of {least}"),
                Err(needed) => assert!(budget < least && needed == least, "{budget} of {least}"),
            }
        }
    }
}

#[test]
fn heat_survives_saving_and_refuses_what_is_not_its_own() {
    let c = layers(2, 4, 1);
    let mut heat = Heat::cold(&c);
    assert_eq!(heat.hottest(&c), [], "nothing is known yet");
    for pass in 1..50 {
        (0..4).for_each(|r| heat.note(c.id(0, r), r == 3, Moment { pass, step: 0 }));
    }
    assert!(heat.share(c.id(0, 3)) > 0.8 && heat.share(c.id(0, 0)) < 0.05, "{heat:?}");
    let json = heat.save(&c, "abc");
    let warm = Heat::load(&json, &c, "abc").expect("its own");
    for r in (0..8).map(RecordId) {
        assert_eq!(warm.share(r), heat.share(r));
    }
    assert_eq!(heat.hottest(&c), [c.id(0, 3)]);
    assert_eq!(warm.hottest(&c)[0], c.id(0, 3));
    for (json, fingerprint) in
        [(json.as_str(), "other"), ("{}", "abc"), (&json.replace("[0.0", "[7.0"), "abc"), (&json.replace(":1,", ":2,"), "abc")]
    {
        assert!(Heat::load(json, &c, fingerprint).is_err(), "{json}");
    }
    assert!(Heat::load(&json, &layers(2, 5, 1), "abc").is_err());
}

#[test]
fn a_trace_that_does_not_fit_its_bundle_is_refused() {
    let c = layers(2, 4, 1);
    let mut trace = Trace::new("abc");
    trace.passes = passes(&c, 5, 0, 0);
    let json = serde_json::to_string(&trace).expect("json");
    assert_eq!(Trace::read(&json, &c, "abc"), Ok(trace.clone()));
    assert!(Trace::read(&json, &c, "abd").is_err());
    assert!(Trace::read(&json, &layers(3, 4, 1), "abc").is_err());
    trace.passes[3].0[1] = vec![4];
    assert!(Trace::read(&serde_json::to_string(&trace).expect("json"), &c, "abc").is_err());
}

/// What the book must agree with: a device that really holds bytes.
#[derive(Default)]
struct Device {
    held: HashMap<Slot, RecordId>,
}

proptest! {
    /// Whatever is asked: slots hold one record each, the budget holds, what is pinned stays, what was admitted is there.
    #[test]
    fn the_book_agrees_with_the_device(
        pools in proptest::collection::vec((1u32..9, 1u32..5, 1u64..4), 1..5),
        policy in proptest::sample::select(&Policy::ALL[..]),
        shared in any::<bool>(),
        region in prop_oneof![Just(u64::MAX), 1200u64..4000],
        budgets in proptest::collection::vec(0.0f64..1.2, 1..6),
        seed in any::<u64>(),
    ) {
        let steps: Vec<usize> = (0..pools.len() * 2).map(|i| i % pools.len()).collect();
        let sizes: Vec<u64> = pools.iter().map(|p| p.2 * 100).collect();
        let c = catalogue(&pools.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(), &sizes, &steps);
        let sharing = if shared { Sharing::Shared } else { Sharing::PerPool };
        let full = Layout::new(&c, c.bytes(), sharing, region).expect("everything");
        let mut tier = Tier::new(c.clone(), &full, policy);
        let (mut device, mut state) = (Device::default(), seed);
        for share in budgets {
            let budget = (c.bytes() as f64 * share) as u64;
            // A resize keeps the regions; slots may be renumbered.
            if let Ok(layout) = Layout::new(&c, budget, sharing, region)
                && layout.regions.iter().map(|r| &r.pools).eq(full.regions.iter().map(|r| &r.pools))
            {
                prop_assert!(layout.bytes() <= budget);
                let before = device.held.len();
                let gone = tier.resize(&layout);
                device.held.retain(|_, r| !gone.contains(r));
                prop_assert_eq!(device.held.len() + gone.len(), before);
                device.held = device.held.values().map(|&r| (tier.slot(r).expect("it stayed"), r)).collect();
                prop_assert_eq!(device.held.len() + gone.len(), before);
                for (i, r) in layout.regions.iter().enumerate() {
                    prop_assert_eq!(tier.slots(i), r.slots);
                }
            }
            for pass in passes(&c, 3, random(&mut state) % 3, 30) {
                tier.begin_pass();
                for (step, records) in pass.0.iter().enumerate() {
                    let pool = c.steps()[step].expect("routed");
                    let wanted: Vec<RecordId> = records.iter().map(|&r| c.id(pool, r)).collect();
                    let missing = tier.want(step, &wanted);
                    let mut turns = false;
                    for r in missing {
                        prop_assert!(!device.held.values().any(|h| *h == r));
                        let first = tier.admit(r);
                        prop_assert!(first.is_some() || !shared || region != u64::MAX, "a token's routes fit a shared region");
                        if first.is_none() {
                            turns = true;
                            // The ones before have had their turn.
                            wanted.iter().for_each(|w| tier.unpin(*w));
                        }
                        let (slot, gone) = first.or_else(|| tier.admit(r)).expect("a slot");
                        prop_assert_eq!(device.held.insert(slot, r), gone);
                        prop_assert!(turns || gone.is_none_or(|g| !wanted.contains(&g)), "{gone:?} was pinned");
                        if random(&mut state).is_multiple_of(16) {
                            tier.remove(r);
                            device.held.remove(&slot);
                        }
                    }
                    for r in wanted {
                        let slot = tier.slot(r);
                        prop_assert_eq!(slot.and_then(|s| device.held.get(&s)).copied(), slot.map(|_| r));
                        tier.unpin(r);
                    }
                }
            }
        }
    }
}

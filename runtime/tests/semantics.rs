//! What the vocabulary promises, on every executor: identities between plans that must give the same numbers.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use hotset::bundle::{Bundle, TensorInfo};
use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::gpu::{AdapterChoice, GpuModel, GpuOptions};
use hotset::model::{self, Output, RunOptions, Want};
use hotset::plan::{
    Activation, Attention, Embedding, Expert, Ffn, GroupBy, Groups, Head, Linear, Norm, Part, Plan, Pool, Routed, Router, Rule, Score,
    Select, SharedFfn, State, Step, VERSION, Value, Weigh, Work,
};
use proptest::prelude::*;
use support::{Model, Random};

const WIDTH: u32 = 24;
const VOCAB: u32 = 24;
const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

/// A model of one step whose stream is the embedding and whose head is a norm and a matrix.
struct Draw {
    random: Random,
    model: Model,
}

impl Draw {
    fn new(seed: u64) -> Draw {
        let plan = Plan {
            version: VERSION,
            width: WIDTH,
            vocab: VOCAB,
            context: None,
            embedding: Embedding::new("embedding".into(), 1.0),
            adapter: None,
            streams: vec![],
            memories: vec![],
            rotations: vec![],
            pools: vec![],
            states: vec![],
            steps: vec![],
            head: Head {
                norm: Norm::Rms { weight: "norm".into(), eps: 1e-5 },
                output: Linear { weight: "head".into(), bias: None },
                scale: 1.0,
            },
        };
        let model = Model { plan, tensors: BTreeMap::new(), values: BTreeMap::new(), records: BTreeMap::new() };
        let mut d = Draw { random: Random::new(seed), model };
        d.matrix("embedding", VOCAB, WIDTH);
        d.matrix("head", VOCAB, WIDTH);
        d.vector("norm", vec![1.0; WIDTH as usize]);
        d
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> Linear {
        let values = self.random.values((rows * cols) as usize, 0.4);
        self.given(name, rows, cols, values)
    }

    fn given(&mut self, name: &str, rows: u32, cols: u32, values: Vec<f32>) -> Linear {
        self.model.tensors.insert(name.into(), TensorInfo::Matrix { rows, cols, codec: Codec::F32 });
        self.model.values.insert(name.into(), values);
        Linear { weight: name.into(), bias: None }
    }

    fn vector(&mut self, name: &str, values: Vec<f32>) {
        self.model.tensors.insert(name.into(), TensorInfo::Vector { len: values.len() as u32 });
        self.model.values.insert(name.into(), values);
    }

    fn pool(&mut self, expert: Expert, records: Vec<Vec<Vec<f32>>>) -> u32 {
        let pool = Pool { name: "experts".into(), expert, codec: Codec::F32, records: records.len() as u32, alias: None };
        self.model.plan.pools.push(pool);
        self.model.records.extend((0..).zip(records).map(|(i, r): (u32, _)| (format!("experts.{i}"), r)));
        0
    }

    fn ffn(&mut self, routed: Option<Router>, shared: Option<SharedFfn>) {
        let routed = routed.map(|router| Routed { pool: 0, router });
        self.model.plan.steps.push(Step { routed, ..Step::new("ffn".into(), None, Work::Ffn(Ffn { shared })) });
    }

    fn logits(&self, dir: &tempfile::TempDir, name: u64) -> Vec<(String, Vec<f32>)> {
        logits(&Arc::new(self.model.write(dir.path(), name)))
    }
}

/// Logits on every executor there is, by name.
fn logits(bundle: &Arc<Bundle>) -> Vec<(String, Vec<f32>)> {
    let mut executors: Vec<Box<dyn model::Model>> =
        vec![Box::new(ReferenceModel::new(bundle.clone())), Box::new(CpuModel::new(bundle.clone(), Some(2)).unwrap())];
    if support::adapter() {
        executors.push(Box::new(GpuModel::new(bundle.clone(), &GpuOptions::on(AdapterChoice::Any)).unwrap()));
    }
    let run = |m: Box<dyn model::Model>| match m.start(RunOptions::new(32)).unwrap().forward(&TOKENS, Want::All).unwrap() {
        Output::Logits(l) => (m.report().device, l),
        other => panic!("{other:?}"),
    };
    executors.into_iter().map(run).collect()
}

fn close(got: &[(String, Vec<f32>)], want: &[(String, Vec<f32>)]) {
    for ((device, a), (_, b)) in got.iter().zip(want) {
        let most = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 2e-4, "{device}: {most}");
    }
}

/// Rows `rows` and all columns of a row-major matrix with `cols` columns.
fn rows(values: &[f32], cols: u32, rows: std::ops::Range<u32>) -> Vec<f32> {
    values[(rows.start * cols) as usize..(rows.end * cols) as usize].to_vec()
}

/// All rows and columns `cols` of a row-major matrix with `all` columns.
fn columns(values: &[f32], all: u32, cols: std::ops::Range<u32>) -> Vec<f32> {
    values.chunks(all as usize).flat_map(|r| r[cols.start as usize..cols.end as usize].to_vec()).collect()
}

fn linear_router(d: &mut Draw, experts: u32, select: Select, weigh: Weigh) -> Router {
    let score = Score::Linear(d.matrix("router", experts, WIDTH));
    Router::new(score, select, weigh)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// A dense layer cut into experts, all of them active with equal weights and a scale of their number, is the dense layer.
    #[test]
    fn all_parts_of_a_layer_are_the_layer(seed: u64, experts in 1u32..6, hidden in 1u32..20) {
        let (dir, all) = (tempfile::tempdir().unwrap(), experts * hidden);
        let mut dense = Draw::new(seed);
        let shared = SharedFfn {
            gate: Some(dense.matrix("gate", all, WIDTH)),
            up: dense.matrix("up", all, WIDTH),
            down: dense.matrix("down", WIDTH, all),
            activation: Activation::Silu,
            weigh: None,
        };
        let part = |d: &Draw, e: u32| {
            let (from, to) = (e * hidden, (e + 1) * hidden);
            let value = |name: &str| d.model.values[name].clone();
            vec![rows(&value("gate"), WIDTH, from..to), rows(&value("up"), WIDTH, from..to), columns(&value("down"), all, from..to)]
        };
        let records = (0..experts).map(|e| part(&dense, e)).collect();
        dense.ffn(None, Some(shared));

        let mut cut = Draw::new(seed);
        cut.pool(Expert::Ffn { hidden, gated: true, activation: Activation::Silu, bias: false }, records);
        let score = Score::Linear(cut.given("router", experts, WIDTH, vec![0.0; (experts * WIDTH) as usize]));
        let weigh = Weigh { scale: experts as f32, ..Weigh::by(Value::Softmax) };
        cut.ffn(Some(Router::new(score, Select::top_k(experts), weigh)), None);
        close(&cut.logits(&dir, 1), &dense.logits(&dir, 2));
    }

    /// A selection bias that forces a set of experts gives what a router gives that has no others: it is no part of any weight.
    #[test]
    fn a_selection_bias_never_leaks_into_weights(seed: u64, kept in proptest::sample::subsequence((0..8u32).collect::<Vec<_>>(), 1..4), softmax: bool) {
        let dir = tempfile::tempdir().unwrap();
        let by = if softmax { Value::SoftmaxSelected } else { Value::Sigmoid };
        let weigh = Weigh { normalise: true, epsilon: 1e-6, scale: 1.5, ..Weigh::by(by) };
        let expert = Expert::Ffn { hidden: 8, gated: false, activation: Activation::Relu, bias: false };
        let k = kept.len() as u32;
        let mut records = Random::new(seed ^ 1);
        let records: Vec<Vec<Vec<f32>>> = (0..8).map(|_| vec![records.values(8 * 24, 0.4), records.values(8 * 24, 0.4)]).collect();

        let mut biased = Draw::new(seed);
        biased.pool(expert.clone(), records.clone());
        let router = linear_router(&mut biased, 8, Select { by: Value::Sigmoid, bias: Some("bias".into()), ..Select::top_k(k) }, weigh.clone());
        let rows_of_router = biased.model.values["router"].clone();
        biased.vector("bias", (0..8).map(|e| if kept.contains(&e) { 40.0 } else { -3.0 }).collect());
        biased.ffn(Some(router), None);

        let mut alone = Draw::new(seed);
        alone.pool(expert, kept.iter().map(|&e| records[e as usize].clone()).collect());
        let values = kept.iter().flat_map(|&e| rows(&rows_of_router, WIDTH, e..e + 1)).collect();
        let score = Score::Linear(alone.given("router", k, WIDTH, values));
        alone.ffn(Some(Router::new(score, Select::top_k(k), weigh)), None);
        close(&biased.logits(&dir, 1), &alone.logits(&dir, 2));
    }

    /// Where all values are equal the lowest experts are taken, and of equal groups the lowest.
    #[test]
    fn ties_go_to_the_lowest(seed: u64, k in 1u32..4, kind in 0..4) {
        let dir = tempfile::tempdir().unwrap();
        let expert = Expert::Ffn { hidden: 8, gated: false, activation: Activation::Relu, bias: false };
        let mut random = Random::new(seed ^ 1);
        let records: Vec<Vec<Vec<f32>>> = (0..12).map(|_| vec![random.values(8 * 24, 0.4), random.values(8 * 24, 0.4)]).collect();
        let groups = Groups { count: 3, keep: 1, by: GroupBy::BestTwo };
        let select = match kind {
            0 => Select::top_k(k),
            1 => Select { by: Value::Softmax, ..Select::top_k(k) },
            2 => Select { by: Value::Sigmoid, groups: Some(groups), ..Select::top_k(k) },
            // Each of twelve has a twelfth: k of them cross just below.
            _ => Select { by: Value::Softmax, rule: Rule::TopP { p: (k as f32 - 0.5) / 12.0 }, ..Select::top_k(1) },
        };
        let mut tied = Draw::new(seed);
        tied.pool(expert.clone(), records.clone());
        let score = Score::Linear(tied.given("router", 12, WIDTH, vec![0.0; 12 * 24]));
        tied.ffn(Some(Router::new(score, select, Weigh::by(Value::SoftmaxSelected))), None);

        let mut first = Draw::new(seed);
        first.pool(expert, records[..k as usize].to_vec());
        let score = Score::Linear(first.given("router", k, WIDTH, vec![0.0; k as usize * 24]));
        first.ffn(Some(Router::new(score, Select::top_k(k), Weigh::by(Value::SoftmaxSelected))), None);
        close(&tied.logits(&dir, 1), &first.logits(&dir, 2));
    }

    /// Each expert's compact rows give what attention over all rows gives once those of other tokens are masked.
    #[test]
    fn ragged_rows_are_a_mask(seed: u64, k in 1u32..4, window in proptest::option::of(1u32..4)) {
        let (dir, dim) = (tempfile::tempdir().unwrap(), 6usize);
        let mut d = Draw::new(seed);
        let expert = Expert::Attention { heads: 1, kv_heads: 1, head_dim: dim as u32, bias: false };
        let mut random = Random::new(seed ^ 1);
        let records: Vec<Vec<Vec<f32>>> = (0..4).map(|_| (0..4).map(|_| random.values(dim * 24, 0.4)).collect()).collect();
        d.pool(expert, records.clone());
        let router = linear_router(&mut d, 4, Select::top_k(k), Weigh::by(Value::SoftmaxSelected));
        d.model.plan.states.push(State::grouped(1, dim as u32));
        let parts = [Part::Expert, Part::Expert, Part::Expert, Part::Expert];
        let attention = Attention { window, ..Attention::new((1, dim as u32), parts, 0) };
        let routed = Some(Routed { pool: 0, router });
        d.model.plan.steps.push(Step { routed, ..Step::new("attention".into(), None, Work::Attention(attention)) });
        let want = masked(&d.model.values, &records, k as usize, window);
        for (device, got) in d.logits(&dir, 1) {
            let most = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            prop_assert!(most < 2e-4, "{device}: {most}");
        }
    }
}

fn product(m: &[f32], x: &[f64]) -> Vec<f64> {
    m.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

/// The model of `ragged_rows_are_a_mask` with a mask over all tokens, in double precision.
fn masked(values: &BTreeMap<String, Vec<f32>>, records: &[Vec<Vec<f32>>], k: usize, window: Option<u32>) -> Vec<f64> {
    let x: Vec<Vec<f64>> =
        TOKENS.iter().map(|&t| rows(&values["embedding"], WIDTH, t..t + 1).into_iter().map(f64::from).collect()).collect();
    let choose = |x: &Vec<f64>| {
        let logits = product(&values["router"], x);
        let mut ids: Vec<usize> = (0..records.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        ids.truncate(k);
        let total: f64 = ids.iter().map(|&e| logits[e].exp()).sum();
        ids.into_iter().map(|e| (e, logits[e].exp() / total)).collect::<Vec<_>>()
    };
    let chosen: Vec<_> = x.iter().map(choose).collect();
    let mut out = Vec::new();
    for t in 0..x.len() {
        let mut y = x[t].clone();
        for &(e, weight) in &chosen[t] {
            let [q, key, value, o] = &records[e][..] else { unreachable!() };
            let query = product(q, &x[t]);
            // Tokens that did not choose this expert get no weight; the window counts those that did.
            let mut seen: Vec<usize> = (0..=t).filter(|&s| chosen[s].iter().any(|c| c.0 == e)).collect();
            let first = window.map_or(0, |w| seen.len().saturating_sub(w as usize));
            seen.drain(..first);
            let score = |s: &usize| product(key, &x[*s]).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>() / (query.len() as f64).sqrt();
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            let mut mixed = vec![0.0; query.len()];
            for (s, score) in seen.iter().zip(scores) {
                mixed.iter_mut().zip(product(value, &x[*s])).for_each(|(m, v)| *m += score.exp() / total * v);
            }
            y.iter_mut().zip(product(o, &mixed)).for_each(|(y, o)| *y += weight * o);
        }
        let scale = (y.iter().map(|v| v * v).sum::<f64>() / y.len() as f64 + 1e-5).sqrt();
        let normed: Vec<f64> = y.iter().map(|v| v / scale).collect();
        out.extend(product(&values["head"], &normed));
    }
    out
}

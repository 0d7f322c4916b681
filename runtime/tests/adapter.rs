//! Adapters against the same model with the additions merged into its weights.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hotset::Adapter;
use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model as _, Output, RunOptions, Want};
use hotset::plan::{self, Delta, Linear, Part, Router, Rule, Score, Select, SharedFfn, Value, Weigh, Work};
use support::{Model, Random};

const RANK: u32 = 4;

type Tensors = BTreeMap<String, (u32, Option<u32>, Vec<f32>)>;

/// An adapter under construction, and the weights it is to be compared with.
struct Draw {
    random: Random,
    base: Model,
    adapter: plan::Adapter,
    tensors: Tensors,
    /// For each delta's matrix, what each expert adds to it, row-major.
    additions: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Draw {
    /// A model of one stream with an always-on feed-forward part and an attention that has matrices.
    fn new(seed: u64) -> Option<Draw> {
        let base = support::plan(seed, Codec::F32);
        let draw = Draw {
            random: Random::new(seed),
            base,
            adapter: Default::default(),
            tensors: Default::default(),
            additions: Default::default(),
        };
        (draw.base.plan.streams.is_empty() && draw.part().is_some() && draw.query().is_some()).then_some(draw)
    }

    fn part(&self) -> Option<(u32, SharedFfn)> {
        (0..).zip(&self.base.plan.steps).find_map(|(i, s)| match &s.work {
            Work::Ffn(f) => Some((i, f.shared.clone()?)),
            _ => None,
        })
    }

    fn query(&self) -> Option<Linear> {
        self.base.plan.steps.iter().find_map(|s| match &s.work {
            Work::Attention(a) => match &a.q {
                Part::Shared(l) => Some(l.clone()),
                _ => None,
            },
            _ => None,
        })
    }

    fn tensor(&mut self, name: &str, rows: u32, cols: u32) -> Vec<f32> {
        let values = self.random.values((rows * cols) as usize, 0.2);
        self.tensors.insert(name.into(), (rows, Some(cols), values.clone()));
        values
    }

    fn delta(&mut self, l: &Linear, experts: u32, router: Option<Router>) {
        let (rows, cols) = match self.base.tensors[&l.weight] {
            hotset::bundle::TensorInfo::Matrix { rows, cols, .. } => (rows, cols),
            hotset::bundle::TensorInfo::Vector { .. } => unreachable!(),
        };
        let (down, up) = (format!("{}.down", l.weight), format!("{}.up", l.weight));
        let (a, b) = (self.tensor(&down, experts * RANK, cols), self.tensor(&up, rows, experts * RANK));
        let wide = experts * RANK;
        let addition = |e: u32| {
            let inner = |r: u32, c: u32| (e * RANK..(e + 1) * RANK).map(|i| b[(r * wide + i) as usize] * a[(i * cols + c) as usize]).sum();
            (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))).map(|(r, c)| inner(r, c)).collect()
        };
        self.additions.insert(l.weight.clone(), (0..experts).map(addition).collect());
        self.adapter.deltas.insert(l.weight.clone(), Delta { experts, rank: RANK, down, up, router });
    }

    /// A router that gives every token the same logits.
    fn router(&mut self, name: &str, width: u32, logits: &[f32], select: Select, by: Value) -> Router {
        let experts = logits.len() as u32;
        self.tensors.insert(format!("{name}.weight"), (experts, Some(width), vec![0.0; (experts * width) as usize]));
        self.tensors.insert(format!("{name}.bias"), (experts, None, logits.to_vec()));
        Router::new(Score::Linear(Linear { weight: format!("{name}.weight"), bias: Some(format!("{name}.bias")) }), select, Weigh::by(by))
    }

    /// The base model with `weights[e]` of what expert `e` adds to the matrix merged into it.
    fn merge(&mut self, matrix: &str, weights: &[f32]) {
        let values = self.base.values.get_mut(matrix).unwrap();
        for (addition, weight) in self.additions[matrix].iter().zip(weights) {
            values.iter_mut().zip(addition).for_each(|(v, a)| *v += weight * a);
        }
    }

    /// Logits with the adapter, on each executor, and logits of the merged model.
    fn compare(mut self, dir: &Path, merged: &[(&str, &[f32])]) {
        let plain = Arc::new(self.base.write(dir, 0));
        let path = dir.join("x.adapter");
        Adapter::write(&path, self.adapter.clone(), &self.tensors).unwrap();
        let adapter = Adapter::open(&path).unwrap();
        assert_eq!(adapter.adapter(), &self.adapter);
        let adapted = Arc::new(plain.adapted(&adapter).unwrap());
        for &(matrix, weights) in merged {
            self.merge(matrix, weights);
        }
        let want = logits(&ReferenceModel::new(Arc::new(self.base.write(dir, 0))));
        let before = logits(&ReferenceModel::new(plain.clone()));
        assert!(distance(&before, &want) > 1e-2, "the adapter changes nothing");
        let executors: [Box<dyn hotset::model::Model>; 2] = [
            ReferenceModel::new(plain.clone()).view(adapted.clone()).unwrap(),
            CpuModel::new(plain, Some(2)).unwrap().view(adapted).unwrap(),
        ];
        for model in executors {
            let distance = distance(&logits(model.as_ref()), &want);
            assert!(distance < 1e-4, "{}: {distance}", model.report().device);
        }
    }
}

fn logits(model: &dyn hotset::model::Model) -> Vec<f32> {
    match model.start(RunOptions::new(64)).unwrap().forward(&[3, 1, 4, 1, 5, 9, 2, 6], Want::All).unwrap() {
        Output::Logits(l) => l,
        other => panic!("{other:?}"),
    }
}

fn distance(got: &[f32], want: &[f32]) -> f32 {
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation
}

fn draws() -> impl Iterator<Item = Draw> {
    (0..).filter_map(Draw::new).take(8)
}

#[test]
fn a_plain_addition_is_a_merged_matrix() {
    for mut d in draws() {
        let dir = tempfile::tempdir().unwrap();
        let query = d.query().unwrap();
        d.delta(&query, 1, None);
        d.compare(dir.path(), &[(&query.weight, &[1.0])]);
    }
}

#[test]
fn weighed_experts_are_a_weighed_sum() {
    for mut d in draws() {
        let dir = tempfile::tempdir().unwrap();
        let (query, width) = (d.query().unwrap(), d.base.plan.width);
        let select = Select { by: Value::Softmax, rule: Rule::TopP { p: 0.85 }, ..Select::top_k(1) };
        let router = d.router("weigh", width, &[0.5f32.ln(), 0.1f32.ln(), 0.4f32.ln()], select, Value::Softmax);
        d.delta(&query, 3, Some(router));
        d.compare(dir.path(), &[(&query.weight, &[0.5, 0.0, 0.4])]);
    }
}

#[test]
fn a_mixture_is_its_chosen_expert() {
    for chosen in 0..3 {
        for mut d in draws() {
            let dir = tempfile::tempdir().unwrap();
            let ((step, part), width) = (d.part().unwrap(), d.base.plan.width);
            let mut logits = [0.0; 3];
            logits[chosen] = 1.0;
            let router = d.router("mixture", width, &logits, Select::top_k(1), Value::SoftmaxSelected);
            let maps: Vec<Linear> = part.gate.into_iter().chain([part.up, part.down]).collect();
            for l in &maps {
                d.delta(l, 3, None);
            }
            d.adapter.mixtures.insert(step, router);
            let mut weights = [0.0; 3];
            weights[chosen] = 1.0;
            let merged: Vec<(&str, &[f32])> = maps.iter().map(|l| (&*l.weight, &weights[..])).collect();
            d.compare(dir.path(), &merged);
        }
    }
}

#[test]
fn weights_of_a_mixture_that_sum_to_one_change_nothing_for_equal_experts() {
    for mut d in draws() {
        let dir = tempfile::tempdir().unwrap();
        let ((step, part), width) = (d.part().unwrap(), d.base.plan.width);
        let router = d.router("mixture", width, &[0.3, -0.2], Select::top_k(2), Value::SoftmaxSelected);
        d.delta(&part.up, 2, None);
        // The second expert becomes the first.
        let (cols, a) = match &d.tensors[&format!("{}.down", part.up.weight)] {
            (_, Some(cols), a) => (*cols as usize, a.clone()),
            _ => unreachable!(),
        };
        let half = a.len() / 2;
        assert_eq!(half, RANK as usize * cols);
        let down = d.tensors.get_mut(&format!("{}.down", part.up.weight)).unwrap();
        let (first, second) = down.2.split_at_mut(half);
        second.copy_from_slice(first);
        let up = d.tensors.get_mut(&format!("{}.up", part.up.weight)).unwrap();
        for row in up.2.chunks_mut(2 * RANK as usize) {
            let (first, second) = row.split_at_mut(RANK as usize);
            second.copy_from_slice(first);
        }
        d.adapter.mixtures.insert(step, router);
        d.compare(dir.path(), &[(&part.up.weight, &[1.0, 0.0])]);
    }
}

#[test]
fn an_adapter_for_another_bundle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = draws().next().unwrap();
    let query = d.query().unwrap();
    d.delta(&query, 1, None);
    let path = dir.path().join("x.adapter");
    Adapter::write(&path, d.adapter.clone(), &d.tensors).unwrap();
    let adapter = Adapter::open(&path).unwrap();
    let other: Bundle = support::bundle(dir.path(), 1000, Codec::F32);
    let error = other.adapted(&adapter).unwrap_err().to_string();
    assert!(error.starts_with("this adapter is not for this bundle: adapter.deltas."), "{error}");
    // A truncated file, and a bundle in its place.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(Adapter::open(&path).unwrap_err().to_string().contains("incomplete"));
    let error = Adapter::open(other.path()).unwrap_err().to_string();
    assert!(error.contains("no adapter in this file"), "{error}");
}

//! Random tiny bundles, built straight from the plan's types: every option of the vocabulary turns up within a few seeds.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test programs, none of which uses everything")]

mod random;

use std::collections::BTreeMap;
use std::path::Path;

use hotset::bundle::{Bundle, BundleWriter, FORMAT, Manifest, Provenance, RecordLayout, TensorInfo};
use hotset::codec::{Codec, encode};
use hotset::plan::{Attention, Name, Part, Plan, Work};

pub use random::{Random, plan};

/// A plan together with its dense tensors, not yet written.
pub struct Model {
    pub plan: Plan,
    pub tensors: BTreeMap<Name, TensorInfo>,
    /// Row-major values of each tensor.
    pub values: BTreeMap<Name, Vec<f32>>,
    /// Row-major values of the matrices of records, by the record's name and in its order; others are random.
    pub records: BTreeMap<Name, Vec<Vec<f32>>>,
}

impl Model {
    /// Stores the model in `dir` and opens it; records are filled with random weights.
    pub fn write(&self, dir: &Path, seed: u64) -> Bundle {
        let path = dir.join(format!("{seed}.hotset"));
        let manifest = Manifest {
            format: FORMAT,
            plan: self.plan.clone(),
            tensors: self.tensors.clone(),
            text: None,
            provenance: Provenance::default(),
            hashes: BTreeMap::new(),
            fingerprint: String::new(),
        };
        let mut random = Random::new(seed ^ 0x5eed);
        let mut writer = BundleWriter::create(&path, manifest, None).unwrap();
        for entry in writer.entries().to_vec() {
            if let Some(info) = self.tensors.get(&entry.name) {
                writer.write(&entry.name, &stored(info, &self.values[&entry.name])).unwrap();
            } else if let Some(pool) = self.plan.pools.iter().find(|p| entry.name.rsplit_once('.').is_some_and(|(n, _)| n == p.name)) {
                let layout = RecordLayout::of(pool, self.plan.width).unwrap();
                let mut bytes = vec![0; layout.bytes];
                let given = self.records.get(&entry.name);
                for (i, &(_, matrix, at)) in layout.matrices.iter().enumerate() {
                    let drawn = || random.values(matrix.rows * matrix.cols, 1.0 / (matrix.cols as f32).sqrt());
                    let values = given.map_or_else(drawn, |g| g[i].clone());
                    encode(matrix, &values, &mut bytes[at..at + matrix.bytes()]);
                }
                for ((_, matrix, _), &at) in layout.matrices.iter().zip(&layout.biases) {
                    let values = random.values(matrix.rows, 0.2);
                    bytes[at..at + matrix.rows * 4].copy_from_slice(bytemuck::cast_slice(&values));
                }
                writer.write(&entry.name, &bytes).unwrap();
            }
        }
        writer.finish().unwrap();
        Bundle::open(&path).unwrap()
    }
}

/// Bytes of a dense tensor as the file holds them.
fn stored(info: &TensorInfo, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; info.bytes().unwrap()];
    match info.layout() {
        Some(layout) => encode(layout, values, &mut bytes),
        None => bytes[..values.len() * 4].copy_from_slice(bytemuck::cast_slice(values)),
    }
    bytes
}

/// Whether there is a GPU, a software one at least. Continuous integration must have one.
#[cfg(feature = "gpu")]
pub fn adapter() -> bool {
    let found = hotset::gpu::adapters().iter().any(|a| a.unusable.is_none());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "no GPU adapter, not even a software one");
        // Written past the capture of test output: whoever runs the tests must see it.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: there is no GPU adapter, not even a software one (lavapipe)");
    }
    found
}

/// The first of the random plans that suit, with its seed.
pub fn suitable(codec: Codec, suits: impl Fn(&Plan) -> bool) -> (u64, Model) {
    (0..).map(|seed| (seed, plan(seed, codec))).find(|(_, m)| suits(&m.plan)).unwrap()
}

/// Whether an attention step of a plan is so.
pub fn attends(p: &Plan, is: impl Fn(&Attention) -> bool) -> bool {
    p.steps.iter().any(|s| matches!(&s.work, Work::Attention(a) if is(a)))
}

/// Kinds of plans that keep more from token to token than rows of keys and values, or read them otherwise.
pub const KINDS: [fn(&Plan) -> bool; 5] = [
    |p| attends(p, |a| a.k == Part::Expert),
    |p| attends(p, |a| matches!(a.q, Part::Sum { .. })),
    |p| attends(p, |a| a.latent.is_some()),
    |p| p.steps.iter().any(|s| matches!(s.work, Work::Convolution(_))),
    |p| !p.streams.is_empty() && !p.memories.is_empty(),
];

/// The random bundle of `seed`, all its matrices in `codec`.
pub fn bundle(dir: &Path, seed: u64, codec: Codec) -> Bundle {
    plan(seed, codec).write(dir, seed)
}

//! Bundles of real shapes with random weights: what a benchmark needs when no checkpoint is at hand.
//!
//! Words are drawn straight in panel layout, so a bundle is written as fast as the disk takes it. Random weights leave the amount of
//! arithmetic and of bytes per token as they are in the model whose shape is used, but their routing has no locality: every token chooses
//! its experts afresh. Hit rates measured on such a bundle are the worst case, not what text would give.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use hotset::Result;
use hotset::bundle::{BundleWriter, FORMAT, Manifest, Provenance, RecordLayout, TensorInfo};
use hotset::codec::{Codec, Layout};
use hotset::plan::{
    Activation, Attention, AttentionKind, Embedding, Expert, Ffn, Head, Linear, Name, Norm, Part, Plan, Pool, Rotation, Routed, Router,
    Rule, Score, Select, State, Step, VERSION, Value, Weigh, Work,
};

/// The hyper-parameters of a decoder with grouped-query attention and routed SwiGLU experts in every layer.
#[derive(Debug)]
pub(crate) struct Shape {
    /// What `--like` calls it.
    pub(crate) name: &'static str,
    layers: u32,
    /// `D`.
    width: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    /// Whether queries and keys are normalised over all heads together or over each head.
    norm_all_heads: bool,
    experts: u32,
    /// `F`.
    hidden: u32,
    top_k: u32,
    renormalise: bool,
    vocab: u32,
    context: u32,
    rope_base: f64,
    eps: f32,
}

/// Every shape there is. All dimensions are multiples of a panel, so nothing is padded.
#[rustfmt::skip]
pub(crate) const SHAPES: [Shape; 3] = [
    Shape { name: "small", layers: 8, width: 512, heads: 8, kv_heads: 8, head_dim: 64, norm_all_heads: true,
            experts: 32, hidden: 256, top_k: 4, renormalise: false, vocab: 32000, context: 4096, rope_base: 1e4, eps: 1e-5 },
    Shape { name: "olmoe-1b-7b", layers: 16, width: 2048, heads: 16, kv_heads: 16, head_dim: 128, norm_all_heads: true,
            experts: 64, hidden: 1024, top_k: 8, renormalise: false, vocab: 50304, context: 4096, rope_base: 1e4, eps: 1e-5 },
    Shape { name: "qwen3-30b-a3b", layers: 48, width: 2048, heads: 32, kv_heads: 4, head_dim: 128, norm_all_heads: false,
            experts: 128, hidden: 768, top_k: 8, renormalise: true, vocab: 151_936, context: 40960, rope_base: 1e6, eps: 1e-6 },
];

/// Writes a bundle of `shape` to `out`; the same seed gives the same bytes. `progress` is told bytes written and bytes in all.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(shape: &Shape, codec: Codec, seed: u64, out: &Path, mut progress: impl FnMut(u64, u64)) -> Result<()> {
    let manifest = shape.manifest(codec, seed);
    let mut writer = BundleWriter::create(out, manifest.clone(), None)?;
    let entries = writer.entries().to_vec();
    let total = entries.iter().map(|e| e.bytes as u64).sum();
    let pools: BTreeMap<&str, &Pool> = manifest.plan.pools.iter().map(|p| (p.name.as_str(), p)).collect();
    let (mut done, mut random, mut buffer) = (0, Random(seed), Vec::new());
    for e in &entries {
        let Some(region) = e.region.as_deref() else { continue };
        buffer.clear();
        buffer.resize(e.bytes, 0);
        let matrices = match manifest.tensors.get(&e.name) {
            Some(&TensorInfo::Vector { len }) => {
                buffer[..len as usize * 4].copy_from_slice(&1f32.to_le_bytes().repeat(len as usize));
                Vec::new()
            }
            Some(matrix) => matrix.layout().map(|l| (l, 0)).into_iter().collect(),
            None => record(pools.get(region), shape.width),
        };
        for (layout, at) in matrices {
            fill(layout, deviation(&e.name, layout), &mut random, &mut buffer[at..][..layout.bytes()]);
        }
        writer.write(&e.name, &buffer)?;
        done += e.bytes as u64;
        progress(done, total);
    }
    writer.finish().map(|_| ())
}

/// Layout and offset of each matrix in a record of `pool`.
fn record(pool: Option<&&Pool>, width: u32) -> Vec<(Layout, usize)> {
    let layout = pool.and_then(|p| RecordLayout::of(p, width));
    layout.into_iter().flat_map(|r| r.matrices).map(|(_, layout, at)| (layout, at)).collect()
}

/// Standard deviation of a matrix's weights. `1/√in` keeps activations of one size through any number of layers, and router logits near
/// standard normal, so that routing is neither uniform nor stuck on a few experts.
fn deviation(name: &str, layout: Layout) -> f32 {
    if name == EMBEDDING { 1.0 } else { 1.0 / (layout.cols as f32).sqrt() }
}

impl Shape {
    fn manifest(&self, codec: Codec, seed: u64) -> Manifest {
        let mut tensors = Table { codec, all: BTreeMap::new() };
        let plan = self.plan(&mut tensors);
        let provenance = Provenance {
            name: format!("{} with random weights", self.name),
            family: "synthetic".into(),
            tool: concat!("hotset ", env!("CARGO_PKG_VERSION")).into(),
            history: vec![format!("drawn at random in {codec} from seed {seed}")],
        };
        Manifest { format: FORMAT, plan, tensors: tensors.all, text: None, provenance, hashes: BTreeMap::new(), fingerprint: String::new() }
    }

    fn plan(&self, tensors: &mut Table) -> Plan {
        let Shape { layers, width, vocab, head_dim, .. } = *self;
        let pairs = head_dim / 2;
        let frequency = |i| self.rope_base.powf(-f64::from(i) / f64::from(pairs)) as f32;
        let expert = Expert::Ffn { hidden: self.hidden, gated: true, activation: Activation::Silu };
        let pool = |i| Pool {
            name: format!("layers.{i}.experts"),
            expert: expert.clone(),
            codec: tensors.codec,
            records: self.experts,
            alias: None,
        };
        let pools = (0..layers).map(pool).collect();
        Plan {
            version: VERSION,
            width,
            vocab,
            context: Some(self.context),
            embedding: Embedding { table: tensors.matrix(EMBEDDING.into(), vocab, width).weight, scale: 1.0 },
            rotations: vec![Rotation { frequencies: (0..pairs).map(frequency).collect(), amplitude: 1.0 }],
            pools,
            states: (0..layers).map(|_| State { kv_heads: self.kv_heads, head_dim, tied: false }).collect(),
            steps: (0..layers).flat_map(|i| [self.attention(i, tensors), self.ffn(i, tensors)]).collect(),
            head: Head {
                norm: self.norm("head.norm".into(), width, tensors),
                output: tensors.matrix("head".into(), vocab, width),
                scale: 1.0,
            },
        }
    }

    fn attention(&self, layer: u32, tensors: &mut Table) -> Step {
        let name = format!("layers.{layer}.attention");
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let normed = |all| if self.norm_all_heads { all } else { self.head_dim };
        let attention = Attention {
            kind: AttentionKind::Softmax,
            heads: self.heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            q: Part::Shared(tensors.matrix(format!("{name}.q"), query, self.width)),
            k: Part::Shared(tensors.matrix(format!("{name}.k"), kv, self.width)),
            v: Part::Shared(tensors.matrix(format!("{name}.v"), kv, self.width)),
            o: Part::Shared(tensors.matrix(format!("{name}.o"), self.width, query)),
            clip: None,
            q_norm: Some(self.norm(format!("{name}.q_norm"), normed(query), tensors)),
            k_norm: Some(self.norm(format!("{name}.k_norm"), normed(kv), tensors)),
            rotation: Some(0),
            window: None,
            state: layer,
        };
        let norm = Some(self.norm(format!("{name}.norm"), self.width, tensors));
        Step { name, norm, routed: None, work: Work::Attention(attention), scale: 1.0, bias: None }
    }

    fn ffn(&self, layer: u32, tensors: &mut Table) -> Step {
        let name = format!("layers.{layer}.ffn");
        let router = Router {
            score: Score::Linear(tensors.router(format!("{name}.router"), self.experts, self.width)),
            select: Select { by: Value::Logit, rule: Rule::TopK { k: self.top_k } },
            weigh: Weigh { by: Value::Softmax, normalise: self.renormalise, scale: 1.0 },
        };
        let norm = Some(self.norm(format!("{name}.norm"), self.width, tensors));
        let routed = Some(Routed { pool: layer, router });
        Step { name, norm, routed, work: Work::Ffn(Ffn { shared: None }), scale: 1.0, bias: None }
    }

    fn norm(&self, weight: Name, len: u32, tensors: &mut Table) -> Norm {
        tensors.all.insert(weight.clone(), TensorInfo::Vector { len });
        Norm::Rms { weight, eps: self.eps }
    }
}

/// Name of the embedding table.
const EMBEDDING: &str = "embedding";

/// The dense tensors, collected while the plan is built.
struct Table {
    codec: Codec,
    all: BTreeMap<Name, TensorInfo>,
}

impl Table {
    fn matrix(&mut self, weight: Name, rows: u32, cols: u32) -> Linear {
        self.all.insert(weight.clone(), TensorInfo::Matrix { rows, cols, codec: self.codec });
        Linear { weight, bias: None }
    }

    /// Routers stay exact: they are small, and a changed choice of experts is a large error.
    fn router(&mut self, weight: Name, rows: u32, cols: u32) -> Linear {
        self.all.insert(weight.clone(), TensorInfo::Matrix { rows, cols, codec: Codec::F32 });
        Linear { weight, bias: None }
    }
}

/// Fills a stored matrix with weights of mean zero and about the given standard deviation.
///
/// Random bits serve as weights once the bits that decide the magnitude are fixed: the exponent of floats (which leaves ±[1, 2) times a power
/// of two), nothing for integers. The mean of -½ of two's complement would point every matrix in one direction and let the layers
/// amplify it until all tokens look alike; scales of random sign cancel it.
fn fill(layout: Layout, deviation: f32, random: &mut Random, out: &mut [u8]) {
    /// Of `±[1, 2)`, uniformly: `√(7/3)`.
    const FLOAT: f32 = 1.527_525_2;
    let power = (deviation / FLOAT).log2().round().exp2();
    let (mask, fixed, step) = match layout.codec {
        Codec::F32 => (0x807F_FFFF_807F_FFFF, u64::from(power.to_bits()) * 0x1_0000_0001, 0.0),
        Codec::Bf16 => (0x807F_807F_807F_807F, u64::from(power.to_bits() >> 16) * REPEAT, 0.0),
        Codec::F16 => (0x83FF_83FF_83FF_83FF, u64::from(f16::from_f32(power).to_bits()) * REPEAT, 0.0),
        // Integers -128..=127 and -8..=7, uniformly.
        Codec::Q8 => (u64::MAX, 0, deviation / 73.9),
        Codec::Q4 => (u64::MAX, 0, deviation / 4.61),
    };
    let (words, scales) = out.split_at_mut(layout.scales_at());
    random.fill(words, mask, fixed);
    random.fill(scales, 0x8000_8000_8000_8000, u64::from(f16::from_f32(step).to_bits()) * REPEAT);
}

/// Repeats 16 bits four times.
const REPEAT: u64 = 0x0001_0001_0001_0001;

/// SplitMix64: one multiplication chain for eight bytes, and good enough for weights nobody trained.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Random bits where `mask` is set, `fixed` elsewhere. Planes are multiples of 8 bytes long.
    fn fill(&mut self, out: &mut [u8], mask: u64, fixed: u64) {
        for chunk in out.chunks_exact_mut(8) {
            chunk.copy_from_slice(&(self.next() & mask | fixed).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;
    use hotset::bundle::Bundle;
    use hotset::codec::{Matrix, PANEL};

    /// A shape small enough to write in a test.
    const TINY: Shape =
        Shape { layers: 2, width: 64, heads: 2, kv_heads: 1, head_dim: 32, experts: 4, hidden: 32, top_k: 2, vocab: 48, ..SHAPES[2] };

    #[test]
    fn weights_have_the_deviation_asked_for_in_every_codec() {
        for codec in Codec::ALL {
            let layout = Layout::new(codec, 4 * PANEL, 256).unwrap();
            let mut bytes = vec![0; layout.bytes()];
            fill(layout, 0.05, &mut Random(7), &mut bytes);
            let (matrix, mut row, mut all) = (Matrix::new(layout, &bytes).unwrap(), vec![0.0; layout.cols], Vec::new());
            for r in 0..layout.rows {
                matrix.row(r, &mut row);
                all.extend_from_slice(&row);
            }
            let n = all.len() as f32;
            let mean = all.iter().sum::<f32>() / n;
            let deviation = (all.iter().map(|x| x * x).sum::<f32>() / n).sqrt();
            assert!(mean.abs() < 0.002, "{codec}: mean {mean}");
            assert!((0.035..0.071).contains(&deviation), "{codec}: deviation {deviation}");
        }
    }

    #[test]
    fn a_bundle_opens_verifies_and_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let write_to = |name: &str, seed| {
            let path = dir.path().join(name);
            let mut last = (0, 0);
            write(&TINY, Codec::Q4, seed, &path, |done, total| last = (done, total)).unwrap();
            assert!(last.0 <= last.1 && last.1 > 0);
            path
        };
        let (a, b, c) = (write_to("a.hotset", 1), write_to("b.hotset", 1), write_to("c.hotset", 2));
        let bundle = Bundle::open(&a).unwrap();
        bundle.verify(|_| ()).unwrap();
        assert_eq!(bundle.plan().steps.len(), 4);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(b).unwrap());
        assert_ne!(std::fs::read(a).unwrap(), std::fs::read(c).unwrap());
    }

    #[test]
    fn every_shape_is_a_valid_plan_without_padding() {
        for shape in &SHAPES {
            let manifest = shape.manifest(Codec::Q4, 1);
            manifest.plan.validate(&manifest.tensors).unwrap();
            for (name, info) in &manifest.tensors {
                if let Some(l) = info.layout() {
                    assert!(l.rows.is_multiple_of(PANEL) && l.cols == l.padded_cols(), "{}: {name}", shape.name);
                }
            }
        }
    }
}

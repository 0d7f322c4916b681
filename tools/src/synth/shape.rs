//! The shapes there are, as a table, and the plan that each stands for.

use std::collections::BTreeMap;

use super::Options;
use hotset::bundle::{FORMAT, Manifest, Provenance, TensorInfo};
use hotset::codec::Codec;
use hotset::plan::{
    Activation, Attention, Embedding, Expert, Ffn, Head, Linear, Name, Norm, Part, Plan, Pool, Rotation, Routed, Router, Score, Select,
    State, Step, VERSION, Value, Weigh, Work,
};

/// The hyper-parameters of a decoder with grouped-query attention and routed SwiGLU experts in every layer.
#[derive(Debug)]
pub(crate) struct Shape {
    /// What `--like` calls it.
    pub(crate) name: &'static str,
    pub(super) layers: u32,
    /// `D`.
    pub(super) width: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    /// Whether queries and keys are normalised over all heads together or over each head.
    norm_all_heads: bool,
    pub(super) experts: u32,
    /// `F`.
    hidden: u32,
    pub(super) top_k: u32,
    renormalise: bool,
    pub(super) vocab: u32,
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

impl Shape {
    /// The manifest of a bundle.
    pub(super) fn manifest(&self, options: &Options) -> Manifest {
        let &Options { codec, seed, skew } = options;
        let mut tensors = Table { codec, biased: skew > 0.0, all: BTreeMap::new() };
        let plan = self.plan(&mut tensors);
        let provenance = Provenance {
            name: format!("{} with random weights", self.name),
            family: "synthetic".into(),
            tool: concat!("hotset ", env!("CARGO_PKG_VERSION")).into(),
            history: vec![format!("drawn at random in {codec} from seed {seed}, use of experts skewed by {skew}")],
            origin: None,
        };
        Manifest { format: FORMAT, plan, tensors: tensors.all, text: None, provenance, hashes: BTreeMap::new(), fingerprint: String::new() }
    }

    fn plan(&self, tensors: &mut Table) -> Plan {
        let Shape { layers, width, vocab, head_dim, .. } = *self;
        let pairs = head_dim / 2;
        let frequency = |i| self.rope_base.powf(-f64::from(i) / f64::from(pairs)) as f32;
        let expert = Expert::Ffn { hidden: self.hidden, gated: true, activation: Activation::Silu, bias: false };
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
            embedding: Embedding::new(tensors.matrix(EMBEDDING.into(), vocab, width).weight, 1.0),
            adapter: None,
            streams: Vec::new(),
            memories: Vec::new(),
            rotations: vec![Rotation::new((0..pairs).map(frequency).collect(), 1.0)],
            pools,
            states: (0..layers).map(|_| State::new(self.kv_heads, head_dim)).collect(),
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
        let parts = [
            Part::Shared(tensors.matrix(format!("{name}.q"), query, self.width)),
            Part::Shared(tensors.matrix(format!("{name}.k"), kv, self.width)),
            Part::Shared(tensors.matrix(format!("{name}.v"), kv, self.width)),
            Part::Shared(tensors.matrix(format!("layers.{layer}{ATTENTION_OUTPUT}"), self.width, query)),
        ];
        let attention = Attention {
            q_norm: Some(self.norm(format!("{name}.q_norm"), normed(query), tensors)),
            k_norm: Some(self.norm(format!("{name}.k_norm"), normed(kv), tensors)),
            rotation: Some(0),
            ..Attention::new((self.heads, self.head_dim), parts, layer)
        };
        let norm = Some(self.norm(format!("{name}.norm"), self.width, tensors));
        Step::new(name, norm, Work::Attention(attention))
    }

    fn ffn(&self, layer: u32, tensors: &mut Table) -> Step {
        let name = format!("layers.{layer}.ffn");
        let score = Score::Linear(tensors.router(format!("{name}.router"), self.experts, self.width));
        let weigh = Weigh { normalise: self.renormalise, ..Weigh::by(Value::Softmax) };
        let router = Router::new(score, Select::top_k(self.top_k), weigh);
        let norm = Some(self.norm(format!("{name}.norm"), self.width, tensors));
        let routed = Some(Routed { pool: layer, router });
        Step { routed, ..Step::new(name, norm, Work::Ffn(Ffn { shared: None })) }
    }

    fn norm(&self, weight: Name, len: u32, tensors: &mut Table) -> Norm {
        tensors.all.insert(weight.clone(), TensorInfo::Vector { len });
        Norm::Rms { weight, eps: self.eps }
    }
}

/// Name of the embedding table.
pub(super) const EMBEDDING: &str = "embedding";

/// What the name of an attention's output projection ends with.
pub(super) const ATTENTION_OUTPUT: &str = ".attention.o";

/// What the name of a router's bias ends with.
pub(super) const BIAS: &str = ".bias";

/// The dense tensors, collected while the plan is built.
struct Table {
    codec: Codec,
    /// Whether routers have biases.
    biased: bool,
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
        let bias = self.biased.then(|| format!("{weight}{BIAS}"));
        self.all.extend(bias.iter().map(|b| (b.clone(), TensorInfo::Vector { len: rows })));
        Linear { weight, bias }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;
    use hotset::codec::PANEL;

    /// A shape small enough to write in a test.
    pub(crate) const TINY: Shape =
        Shape { layers: 2, width: 64, heads: 2, kv_heads: 1, head_dim: 32, experts: 4, hidden: 32, top_k: 2, vocab: 48, ..SHAPES[2] };

    /// Enough experts for statistics of routing, in enough layers to see whether they hold in the deep ones.
    pub(crate) const WIDE: Shape =
        Shape { layers: 6, width: 256, heads: 4, kv_heads: 2, head_dim: 64, experts: 32, hidden: 32, top_k: 4, vocab: 2048, ..SHAPES[2] };

    #[test]
    fn every_shape_is_a_valid_plan_without_padding() {
        for shape in &SHAPES {
            let manifest = shape.manifest(&Options { codec: Codec::Q4, seed: 1, skew: 1.0 });
            manifest.plan.validate(&manifest.tensors).unwrap();
            for (name, info) in &manifest.tensors {
                if let Some(l) = info.layout() {
                    assert!(l.rows.is_multiple_of(PANEL) && l.cols == l.padded_cols(), "{}: {name}", shape.name);
                }
            }
        }
    }
}

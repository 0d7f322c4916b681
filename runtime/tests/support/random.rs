//! Drawing plans: shapes that are no multiples of anything, and a coin for every option.

use hotset::bundle::TensorInfo;
use hotset::codec::Codec;
use hotset::plan::{
    Activation, Attention, AttentionKind, Embedding, Expert, Ffn, Head, Linear, Name, Norm, Part, Plan, Pool, Rotation, Routed, Router,
    Score, Select, SharedFfn, State, Step, VERSION, Value, Weigh, Work,
};

use super::Model;

/// Splitmix64: small, good enough, the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// Uniform with standard deviation `deviation`.
    pub fn values(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        (0..n).map(|_| ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.732 * deviation).collect()
    }

    pub fn tokens(&mut self, n: usize, vocab: u32) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab)).collect()
    }
}

struct Draw {
    random: Random,
    codec: Codec,
    model: Model,
}

/// A random valid plan with two to four steps and a tiny vocabulary, tensors included.
pub fn plan(seed: u64, codec: Codec) -> Model {
    let mut random = Random::new(seed);
    let width = random.pick(&[24, 40, 64, 72]);
    let vocab = random.pick(&[50, 97, 300]);
    let linear = |name: &str| Linear { weight: name.into(), bias: None };
    let plan = Plan {
        version: VERSION,
        width,
        vocab,
        context: None,
        embedding: Embedding::new("embedding".into(), random.pick(&[1.0, 3.5])),
        streams: Vec::new(),
        memories: Vec::new(),
        rotations: Vec::new(),
        pools: Vec::new(),
        states: Vec::new(),
        steps: Vec::new(),
        head: Head { norm: Norm::Rms { weight: String::new(), eps: 1e-5 }, output: linear("embedding"), scale: random.pick(&[1.0, 0.5]) },
    };
    let model = Model { plan, tensors: Default::default(), values: Default::default() };
    let mut d = Draw { random, codec, model };
    d.matrix("embedding", vocab, width);
    if d.random.coin() {
        d.model.plan.head.output = d.linear("head", vocab, width);
    }
    d.model.plan.head.norm = d.norm("final", width);
    for i in 0..2 + d.random.below(3) {
        let attention = if i == 0 {
            true
        } else if i == 1 {
            false
        } else {
            d.random.coin()
        };
        let step = if attention { d.attention(i) } else { d.ffn(i) };
        d.model.plan.steps.push(step);
    }
    d.model
}

impl Draw {
    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> Name {
        let values = self.random.values(rows as usize * cols as usize, 1.0 / (cols as f32).sqrt());
        self.model.tensors.insert(name.into(), TensorInfo::Matrix { rows, cols, codec: self.codec });
        self.model.values.insert(name.into(), values);
        name.into()
    }

    fn vector(&mut self, name: String, len: u32, centre: f32) -> Name {
        let values = self.random.values(len as usize, 0.2).iter().map(|v| v + centre).collect();
        self.model.tensors.insert(name.clone(), TensorInfo::Vector { len });
        self.model.values.insert(name.clone(), values);
        name
    }

    fn linear(&mut self, name: &str, rows: u32, cols: u32) -> Linear {
        let weight = self.matrix(name, rows, cols);
        let bias = self.random.coin().then(|| self.vector(format!("{name}.bias"), rows, 0.0));
        Linear { weight, bias }
    }

    fn norm(&mut self, name: &str, len: u32) -> Norm {
        let weight = self.vector(format!("{name}.norm"), len, 1.0);
        let eps = 1e-5;
        if self.random.coin() {
            return Norm::Rms { weight, eps };
        }
        let bias = self.random.coin().then(|| self.vector(format!("{name}.norm.bias"), len, 0.0));
        Norm::Layer { weight, bias, eps }
    }

    fn activation(&mut self) -> Activation {
        self.random.pick(&[Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu])
    }

    /// An existing pool of the same signature now and then, else a new one.
    fn pool(&mut self, expert: Expert) -> u32 {
        let pools = &mut self.model.plan.pools;
        if let Some(i) = pools.iter().position(|p| p.expert == expert).filter(|_| self.random.coin()) {
            return i as u32;
        }
        let records = 1 + self.random.below(9);
        let ids = records + self.random.below(4);
        let alias = self.random.coin().then(|| (0..ids).map(|i| Some((i * 7 + 3) % records)).collect());
        pools.push(Pool { name: format!("pool{}", pools.len()), expert, codec: self.codec, records, alias });
        pools.len() as u32 - 1
    }

    fn routed(&mut self, step: &str, expert: Expert) -> Routed {
        let pool = self.pool(expert);
        let (experts, width) = (self.model.plan.pools[pool as usize].experts(), self.model.plan.width);
        let hidden = self.random.pick(&[16, 20, 36]);
        let score = match self.random.below(3) {
            0 => Score::Linear(self.linear(&format!("{step}.router"), experts, width)),
            1 => Score::Mlp {
                hidden: self.linear(&format!("{step}.router.hidden"), hidden, width),
                activation: self.activation(),
                output: self.linear(&format!("{step}.router.output"), experts, hidden),
            },
            _ => Score::Cosine {
                projection: self.linear(&format!("{step}.router.projection"), hidden, width),
                centroids: self.matrix(&format!("{step}.router.centroids"), experts, hidden),
            },
        };
        let select =
            Select { by: self.random.pick(&[Value::Logit, Value::Softmax]), ..Select::top_k(1 + self.random.below(experts.min(4))) };
        let by = self.random.pick(&[Value::Softmax, Value::SoftmaxSelected, Value::Logit]);
        // Logits may sum to nearly nothing, which no tolerance survives.
        let normalise = by != Value::Logit && self.random.coin();
        let weigh = Weigh { normalise, scale: self.random.pick(&[1.0, 2.5]), ..Weigh::by(by) };
        Routed { pool, router: Router::new(score, select, weigh) }
    }

    fn step(&mut self, name: String, routed: Option<Routed>, work: Work) -> Step {
        let width = self.model.plan.width;
        let norm = (self.random.below(4) > 0).then(|| self.norm(&name, width));
        let bias = self.random.coin().then(|| self.vector(format!("{name}.bias"), width, 0.0));
        Step { routed, scale: self.random.pick(&[1.0, 0.5]), bias, ..Step::new(name, norm, work) }
    }

    fn ffn(&mut self, i: u32) -> Step {
        let (name, width) = (format!("ffn{i}"), self.model.plan.width);
        let kind = self.random.below(3);
        let routed = (kind != 0).then(|| {
            let expert = Expert::Ffn {
                hidden: self.random.pick(&[16, 40, 68]),
                gated: self.random.coin(),
                activation: self.activation(),
                bias: false,
            };
            self.routed(&name, expert)
        });
        let shared = (kind != 1).then(|| {
            let hidden = self.random.pick(&[24, 56]);
            SharedFfn {
                gate: self.random.coin().then(|| self.linear(&format!("{name}.gate"), hidden, width)),
                up: self.linear(&format!("{name}.up"), hidden, width),
                down: self.linear(&format!("{name}.down"), width, hidden),
                activation: self.activation(),
                weigh: self.random.coin().then(|| self.linear(&format!("{name}.weigh"), 1, width)),
            }
        });
        self.step(name, routed, Work::Ffn(Ffn { shared }))
    }

    fn attention(&mut self, i: u32) -> Step {
        let (name, width) = (format!("attention{i}"), self.model.plan.width);
        let kind = self.random.pick(&[AttentionKind::Softmax, AttentionKind::StickBreaking]);
        let identity = self.random.below(4) == 0;
        let head_dim = if identity { width / self.random.pick(&[1, 2]) } else { self.random.pick(&[6, 8, 18]) };
        let kv_heads = if identity { width / head_dim } else { 1 + self.random.below(2) };
        let heads = kv_heads * (1 + self.random.below(3));
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        let tied = identity && self.random.coin();
        let expert = self.random.coin();
        let routed = expert.then(|| self.routed(&name, Expert::QueryOutput { heads, head_dim }));
        let shared = |d: &mut Draw, part: &str, rows, cols| Part::Shared(d.linear(&format!("{name}.{part}"), rows, cols));
        let (q, o) = match expert {
            true => (Part::Expert, Part::Expert),
            false => (shared(self, "q", query, width), shared(self, "o", width, query)),
        };
        let (k, v) = match identity {
            true => (Part::Input, Part::Input),
            false => (shared(self, "k", kv, width), shared(self, "v", kv, width)),
        };
        let per_head = self.random.coin();
        let q_norm = self.random.coin().then(|| self.norm(&format!("{name}.q"), if per_head { head_dim } else { query }));
        let k_norm = (!tied && self.random.coin()).then(|| self.norm(&format!("{name}.k"), if per_head { head_dim } else { kv }));
        let rotation = (!tied && self.random.coin()).then(|| {
            let pairs = (head_dim / self.random.pick(&[2, 4])).max(1);
            let frequencies = (0..pairs).map(|p| 100f32.powf(-(p as f32) / pairs as f32)).collect();
            self.model.plan.rotations.push(Rotation::new(frequencies, self.random.pick(&[1.0, 1.2])));
            self.model.plan.rotations.len() as u32 - 1
        });
        self.model.plan.states.push(State { tied, ..State::new(kv_heads, head_dim) });
        let attention = Attention {
            kind,
            clip: self.random.coin().then_some(0.8),
            q_norm,
            k_norm,
            rotation,
            window: (self.random.below(3) == 0).then_some(5),
            ..Attention::new((heads, head_dim), [q, k, v, o], self.model.plan.states.len() as u32 - 1)
        };
        self.step(name, routed, Work::Attention(attention))
    }
}

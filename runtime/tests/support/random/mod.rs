//! Drawing plans: shapes that are no multiples of anything, and a coin for every option.

mod attention;
mod router;

use hotset::bundle::TensorInfo;
use hotset::codec::Codec;
use hotset::plan::{
    Activation, Convolution, Embedding, Expert, Ffn, Head, Join, Linear, Name, Norm, Plan, Routed, SharedFfn, State, Step, Stream, VERSION,
    Work,
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

/// Most positions of a plan that has learned ones.
const POSITIONS: u32 = 640;

struct Draw {
    random: Random,
    codec: Codec,
    model: Model,
}

/// A random valid plan with two to five steps and a tiny vocabulary, tensors included.
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
        adapter: None,
        streams: Vec::new(),
        memories: Vec::new(),
        rotations: Vec::new(),
        pools: Vec::new(),
        states: Vec::new(),
        steps: Vec::new(),
        head: Head { norm: Norm::Rms { weight: String::new(), eps: 1e-5 }, output: linear("embedding"), scale: random.pick(&[1.0, 0.5]) },
    };
    let model = Model { plan, tensors: Default::default(), values: Default::default(), records: Default::default() };
    let mut d = Draw { random, codec, model };
    d.matrix("embedding", vocab, width);
    if d.random.below(4) == 0 {
        d.model.plan.context = Some(POSITIONS);
        d.model.plan.embedding.positions = Some(d.matrix("positions", POSITIONS, width));
    }
    if d.random.coin() {
        d.model.plan.head.output = d.linear("head", vocab, width);
    }
    d.model.plan.head.norm = d.norm("final", width);
    if d.random.below(4) == 0 {
        d.ahead();
    }
    for i in 0..2 + d.random.below(3) {
        let kind = if i < 2 { i } else { d.random.below(5) };
        match kind {
            0 => d.attention(format!("attention{i}"), 0),
            1 | 2 => d.ffn(format!("ffn{i}"), 0),
            3 => d.convolution(format!("convolution{i}")),
            _ => d.chain(i),
        }
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

    /// Of a hidden layer that may have a gate.
    fn hidden_activation(&mut self, gated: bool) -> Activation {
        match gated && self.random.below(4) == 0 {
            true => Activation::Clamped { alpha: 1.702, limit: 0.7 },
            false => self.activation(),
        }
    }

    fn width(&self, stream: u32) -> u32 {
        self.model.plan.stream_width(stream).unwrap()
    }

    /// Adds a step that reads and writes `stream`.
    fn step(&mut self, name: String, stream: u32, routed: Option<Routed>, work: Work) {
        let width = self.width(stream);
        let norm = (self.random.below(4) > 0).then(|| self.norm(&name, width));
        let bias = self.random.coin().then(|| self.vector(format!("{name}.bias"), width, 0.0));
        let scale = self.random.pick(&[1.0, 0.5]);
        self.model.plan.steps.push(Step { from: stream, to: stream, routed, scale, bias, ..Step::new(name, norm, work) });
    }

    /// A stream of its own width that is finished before the first step of the residual stream; routers may look at it.
    fn ahead(&mut self) {
        let (vocab, width) = (self.model.plan.vocab, self.random.pick(&[20, 36]));
        let table = self.matrix("ahead", vocab, width);
        self.model.plan.streams.push(Stream { width, embedding: Some(Embedding::new(table, 2.0)) });
        self.attention("ahead.attention".into(), 1);
        self.ffn("ahead.ffn".into(), 1);
    }

    /// A step or two on a copy of the residual stream, which then comes back.
    fn chain(&mut self, i: u32) {
        let width = self.model.plan.width;
        self.model.plan.streams.push(Stream { width, embedding: None });
        let side = self.model.plan.streams.len() as u32;
        let norm = Some(self.norm(&format!("copy{i}"), width));
        let join = self.random.pick(&[Join::Add, Join::Replace]);
        self.model.plan.steps.push(Step { to: side, join, ..Step::new(format!("copy{i}"), norm, Work::Identity) });
        for n in 0..1 + self.random.below(2) {
            match self.random.coin() {
                true => self.ffn(format!("chain{i}.ffn{n}"), side),
                false => self.attention(format!("chain{i}.attention{n}"), side),
            }
        }
        let join = self.random.pick(&[Join::Add, Join::Replace]);
        self.model.plan.steps.push(Step { from: side, join, ..Step::new(format!("back{i}"), None, Work::Identity) });
    }

    fn ffn(&mut self, name: String, stream: u32) {
        let width = self.width(stream);
        // Experts work on the residual stream's width.
        let kind = if width == self.model.plan.width { self.random.below(3) } else { 0 };
        let routed = (kind != 0).then(|| {
            let gated = self.random.coin();
            let activation = self.hidden_activation(gated);
            let expert = Expert::Ffn { hidden: self.random.pick(&[16, 40, 68]), gated, activation, bias: self.random.below(3) == 0 };
            self.routed(&name, stream, expert)
        });
        let shared = (kind != 1).then(|| {
            let (hidden, gated) = (self.random.pick(&[24, 56]), self.random.coin());
            SharedFfn {
                gate: gated.then(|| self.linear(&format!("{name}.gate"), hidden, width)),
                up: self.linear(&format!("{name}.up"), hidden, width),
                down: self.linear(&format!("{name}.down"), width, hidden),
                activation: self.hidden_activation(gated),
                weigh: self.random.coin().then(|| self.linear(&format!("{name}.weigh"), 1, width)),
            }
        });
        self.step(name, stream, routed, Work::Ffn(Ffn { shared }));
    }

    fn convolution(&mut self, name: String) {
        let width = self.model.plan.width;
        let taps = 1 + self.random.below(4);
        self.model.plan.states.push(State::tied(1, width));
        let work = Convolution {
            input: self.linear(&format!("{name}.input"), 3 * width, width),
            kernel: self.vector(format!("{name}.kernel"), taps * width, 0.5),
            taps,
            bias: self.random.coin().then(|| self.vector(format!("{name}.taps.bias"), width, 0.0)),
            output: self.linear(&format!("{name}.output"), width, width),
            state: self.model.plan.states.len() as u32 - 1,
        };
        self.step(name, 0, None, Work::Convolution(work));
    }
}

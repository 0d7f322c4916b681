//! Everything a plan may get wrong, checked once. Executors index and multiply without looking again.

mod adapter;
mod attention;
mod router;

use super::{Activation, Beyond, Convolution, Embedding, Expert, Linear, Norm, Plan, Rotation, SharedFfn, Step, VERSION, Work};
use crate::codec::Layout;

/// Upper bounds of what a file may ask for: far above any published model, far below what would overflow.
pub struct Caps;

impl Caps {
    /// Width of the residual stream and of any hidden layer.
    pub const WIDTH: u32 = 1 << 20;
    /// Token ids.
    pub const VOCAB: u32 = 1 << 24;
    /// Positions.
    pub const CONTEXT: u32 = 1 << 28;
    /// Steps, pools, states, rotations, streams, memories.
    pub const ITEMS: usize = 1 << 14;
    /// Records or expert ids of one pool.
    pub const EXPERTS: usize = 1 << 16;
    /// Experts one token may use in one step.
    pub const ROUTES: u32 = 256;
    /// Query or key heads of a step.
    pub const HEADS: u32 = 1 << 12;
    /// Width of a head.
    pub const HEAD_DIM: u32 = 1 << 12;
    /// Taps of a convolution.
    pub const TAPS: u32 = 64;
}

/// What is wrong with a plan: the field, as a path, and the reason.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PlanError {
    /// Path of the field, such as `steps[3].routed.pool`.
    pub field: String,
    /// What is wrong, with the values.
    pub reason: String,
}

/// The shapes of dense tensors, by name.
pub trait Tensors {
    /// Rows and columns of a matrix.
    fn matrix(&self, name: &str) -> Option<(u32, u32)>;
    /// Length of a vector.
    fn vector(&self, name: &str) -> Option<u32>;
}

type Check = Result<(), PlanError>;

fn fail<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError { field: field.into(), reason: reason.into() })
}

fn ensure(ok: bool, field: &str, reason: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { fail(field, reason()) }
}

fn in_range(value: u32, max: u32, field: &str) -> Check {
    ensure((1..=max).contains(&value), field, || format!("{value} is not in 1..={max}"))
}

fn finite(value: f32, field: &str) -> Check {
    ensure(value.is_finite(), field, || format!("{value} is not finite"))
}

impl Plan {
    /// Checks every reference, shape and number of the plan against the tensors it names.
    pub fn validate(&self, tensors: &dyn Tensors) -> Check {
        let v = Validator { plan: self, tensors };
        in_range(self.version, VERSION, "version")?;
        in_range(self.width, Caps::WIDTH, "width")?;
        in_range(self.vocab, Caps::VOCAB, "vocab")?;
        self.context.map_or(Ok(()), |n| in_range(n, Caps::CONTEXT, "context"))?;
        let counts = [
            (self.steps.len(), "steps"),
            (self.pools.len(), "pools"),
            (self.states.len(), "states"),
            (self.rotations.len(), "rotations"),
            (self.streams.len(), "streams"),
            (self.memories.len(), "memories"),
        ];
        for (n, what) in counts {
            ensure(n <= Caps::ITEMS, what, || format!("{n} entries; at most {} are allowed", Caps::ITEMS))?;
        }
        v.embedding(&self.embedding, self.width, "embedding")?;
        for (i, s) in self.streams.iter().enumerate() {
            let at = format!("streams[{i}]");
            in_range(s.width, Caps::WIDTH, &at)?;
            s.embedding.as_ref().map_or(Ok(()), |e| v.embedding(e, s.width, &at))?;
        }
        self.memories.iter().try_for_each(|&w| in_range(w, Caps::WIDTH, "memories"))?;
        self.rotations.iter().enumerate().try_for_each(|(i, r)| rotation(r, &format!("rotations[{i}]")))?;
        (0..self.pools.len()).try_for_each(|i| v.pool(i))?;
        for (i, s) in self.states.iter().enumerate() {
            in_range(s.kv_heads, Caps::HEADS, &format!("states[{i}].kv_heads"))?;
            in_range(s.head_dim, Caps::WIDTH, &format!("states[{i}].head_dim"))?;
        }
        let mut owner = vec![None; self.states.len()];
        for (i, step) in self.steps.iter().enumerate() {
            v.step(step, &format!("steps[{i}] ({})", step.name))?;
            let state = match &step.work {
                Work::Attention(a) => a.state,
                Work::Convolution(c) => c.state,
                Work::Ffn(_) | Work::Identity => continue,
            };
            if let Some(other) = owner[state as usize].replace(i) {
                return fail(format!("steps[{i}].state"), format!("state {state} already belongs to step {other}"));
            }
        }
        v.norm(&self.head.norm, &[self.width], "head.norm")?;
        v.linear(&self.head.output, self.vocab, self.width, "head.output")?;
        finite(self.head.scale, "head.scale")?;
        self.adapter.as_ref().map_or(Ok(()), |a| v.adapter(a))
    }
}

struct Validator<'a> {
    plan: &'a Plan,
    tensors: &'a dyn Tensors,
}

fn rotation(r: &Rotation, at: &str) -> Check {
    let pairs = u32::try_from(r.frequencies.len()).unwrap_or(u32::MAX);
    in_range(pairs, Caps::HEAD_DIM / 2, at)?;
    finite(r.amplitude, at)?;
    r.frequencies.iter().try_for_each(|&f| finite(f, at))?;
    match &r.beyond {
        None => Ok(()),
        Some(Beyond::Other { after, frequencies, amplitude }) => {
            in_range(*after, Caps::CONTEXT, at)?;
            ensure(frequencies.len() == r.frequencies.len(), at, || format!("{} other frequencies for {pairs} pairs", frequencies.len()))?;
            finite(*amplitude, at)?;
            frequencies.iter().try_for_each(|&f| finite(f, at))
        }
        Some(Beyond::Growing { after, base, factor }) => {
            in_range(*after, Caps::CONTEXT, at)?;
            ensure(pairs > 1, at, || "a single pair has no base that could grow".into())?;
            ensure(base.is_finite() && *base > 1.0, at, || format!("base {base}"))?;
            ensure(factor.is_finite() && *factor >= 1.0, at, || format!("factor {factor}"))
        }
    }
}

impl Validator<'_> {
    fn embedding(&self, e: &Embedding, width: u32, at: &str) -> Check {
        self.matrix(&e.table, self.plan.vocab, width, &format!("{at}.table"))?;
        finite(e.scale, &format!("{at}.scale"))?;
        let Some(positions) = &e.positions else { return Ok(()) };
        let Some(context) = self.plan.context else {
            return fail(at, "positions have rows but the plan states no context");
        };
        match self.tensors.matrix(positions) {
            None => fail(at, format!("there is no matrix {positions:?}")),
            Some((rows, cols)) => ensure(rows >= context && cols == width, at, || {
                format!("matrix {positions:?} is {rows}×{cols}, expected {context} rows or more and {width} columns")
            }),
        }
    }

    /// The rows of a matrix that says by itself how many it has.
    fn rows(&self, name: &str, at: &str) -> Result<u32, PlanError> {
        match self.tensors.matrix(name) {
            None => fail(at, format!("there is no matrix {name:?}")),
            Some((rows, _)) => in_range(rows, Caps::WIDTH, at).map(|()| rows),
        }
    }

    fn matrix(&self, name: &str, rows: u32, cols: u32, at: &str) -> Check {
        match self.tensors.matrix(name) {
            None => fail(at, format!("there is no matrix {name:?}")),
            Some((r, c)) => ensure((r, c) == (rows, cols), at, || format!("matrix {name:?} is {r}×{c}, expected {rows}×{cols}")),
        }
    }

    fn vector(&self, name: &str, len: u32, at: &str) -> Check {
        match self.tensors.vector(name) {
            None => fail(at, format!("there is no vector {name:?}")),
            Some(n) => ensure(n == len, at, || format!("vector {name:?} has {n} elements, expected {len}")),
        }
    }

    fn linear(&self, l: &Linear, rows: u32, cols: u32, at: &str) -> Check {
        self.matrix(&l.weight, rows, cols, at)?;
        l.bias.as_ref().map_or(Ok(()), |b| self.vector(b, rows, at))
    }

    /// `lens`: the lengths the norm may have here.
    fn norm(&self, n: &Norm, lens: &[u32], at: &str) -> Check {
        let Some(len) = self.tensors.vector(n.weight()) else {
            return fail(at, format!("there is no vector {:?}", n.weight()));
        };
        ensure(lens.contains(&len), at, || format!("vector {:?} has {len} elements, expected one of {lens:?}", n.weight()))?;
        match n {
            Norm::Rms { eps, .. } => ensure(eps.is_finite() && *eps >= 0.0, at, || format!("eps {eps}")),
            Norm::Layer { bias, eps, .. } => {
                ensure(eps.is_finite() && *eps >= 0.0, at, || format!("eps {eps}"))?;
                bias.as_ref().map_or(Ok(()), |b| self.vector(b, len, at))
            }
        }
    }

    fn pool(&self, i: usize) -> Check {
        let (pool, at) = (&self.plan.pools[i], format!("pools[{i}] ({})", self.plan.pools[i].name));
        let max = u32::try_from(Caps::EXPERTS).unwrap_or(u32::MAX);
        in_range(pool.records, max, &at)?;
        if let Some(alias) = &pool.alias {
            ensure((1..=Caps::EXPERTS).contains(&alias.len()), &at, || format!("{} aliases", alias.len()))?;
            if let Some(bad) = alias.iter().flatten().find(|&&r| r >= pool.records) {
                return fail(at, format!("alias to record {bad} of {}", pool.records));
            }
        }
        match pool.expert {
            Expert::Ffn { hidden, gated, activation, .. } => {
                in_range(hidden, Caps::WIDTH, &at)?;
                activates(activation, gated, &at)?;
            }
            Expert::Attention { heads, kv_heads, head_dim, .. } => {
                in_range(heads, Caps::HEADS, &at)?;
                in_range(kv_heads, heads, &at)?;
                in_range(head_dim, Caps::HEAD_DIM, &at)?;
            }
            Expert::QueryOutput { heads, head_dim } => {
                in_range(heads, Caps::HEADS, &at)?;
                in_range(head_dim, Caps::HEAD_DIM, &at)?;
            }
        }
        for (role, rows, cols) in pool.expert.matrices(self.plan.width) {
            ensure(Layout::new(pool.codec, rows as usize, cols as usize).is_some(), &at, || {
                format!("{role:?} of {rows}×{cols} is too large")
            })?;
        }
        Ok(())
    }

    fn step(&self, step: &Step, at: &str) -> Check {
        finite(step.scale, at)?;
        let width = |stream: u32| match self.plan.stream_width(stream) {
            Some(width) => Ok(width),
            None => fail(at, format!("stream {stream} of {}", self.plan.streams.len() + 1)),
        };
        let (from, to) = (width(step.from)?, width(step.to)?);
        ensure(from == to, at, || format!("reads a stream {from} wide and writes one {to} wide"))?;
        if let Some(n) = &step.norm {
            self.norm(n, &[from], at)?;
        }
        if let Some(b) = &step.bias {
            self.vector(b, from, at)?;
        }
        let pool = match &step.routed {
            None => None,
            Some(r) => {
                let Some(pool) = self.plan.pools.get(r.pool as usize) else {
                    return fail(at, format!("pool {} of {}", r.pool, self.plan.pools.len()));
                };
                ensure(from == self.plan.width, at, || format!("experts work on the width {}, this stream has {from}", self.plan.width))?;
                self.router(&r.router, pool.experts(), from, at)?;
                Some(pool)
            }
        };
        match &step.work {
            Work::Ffn(ffn) => {
                let fits = pool.is_none_or(|p| matches!(p.expert, Expert::Ffn { .. }));
                ensure(fits, at, || "the pool's experts are not feed-forward".into())?;
                ensure(pool.is_some() || ffn.shared.is_some(), at, || "neither routed experts nor an always-on part".into())?;
                ffn.shared.as_ref().map_or(Ok(()), |s| self.shared(s, from, at))
            }
            Work::Attention(a) => self.attention(a, pool, from, at),
            Work::Convolution(c) => {
                ensure(pool.is_none(), at, || "a convolution has nothing to route".into())?;
                self.convolution(c, from, at)
            }
            Work::Identity => ensure(pool.is_none(), at, || "the identity has nothing to route".into()),
        }
    }

    fn convolution(&self, c: &Convolution, width: u32, at: &str) -> Check {
        in_range(c.taps, Caps::TAPS, at)?;
        self.linear(&c.input, width.saturating_mul(3), width, at)?;
        self.vector(&c.kernel, width.saturating_mul(c.taps), at)?;
        c.bias.as_ref().map_or(Ok(()), |b| self.vector(b, width, at))?;
        self.linear(&c.output, width, width, at)?;
        let Some(state) = self.plan.states.get(c.state as usize) else {
            return fail(at, format!("state {} of {}", c.state, self.plan.states.len()));
        };
        ensure(state.tied && !state.grouped && (state.kv_heads, state.head_dim) == (1, width), at, || {
            format!("a convolution needs a tied state with one head of {width}")
        })
    }

    fn shared(&self, s: &SharedFfn, width: u32, at: &str) -> Check {
        let hidden = self.rows(&s.up.weight, at)?;
        activates(s.activation, s.gate.is_some(), at)?;
        self.linear(&s.up, hidden, width, at)?;
        if let Some(g) = &s.gate {
            self.linear(g, hidden, width, at)?;
        }
        self.linear(&s.down, width, hidden, at)?;
        s.weigh.as_ref().map_or(Ok(()), |w| self.linear(w, 1, width, at))
    }
}

/// Whether an activation can be used, with or without a gate.
fn activates(activation: Activation, gated: bool, at: &str) -> Check {
    match activation {
        Activation::Clamped { alpha, limit } => {
            ensure(gated, at, || "a clamped activation needs a gate".into())?;
            finite(alpha, at)?;
            ensure(limit.is_finite() && limit > 0.0, at, || format!("limit {limit}"))
        }
        Activation::Silu | Activation::Gelu | Activation::GeluTanh | Activation::Relu => Ok(()),
    }
}

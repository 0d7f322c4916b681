//! Everything a plan may get wrong, checked once. Executors index and multiply without looking again.

use super::{Attention, Expert, Linear, Norm, Part, Plan, Router, Rule, Score, SharedFfn, Step, VERSION, Value, Work};
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
    /// Steps, pools, states, rotations.
    pub const ITEMS: usize = 1 << 14;
    /// Records or expert ids of one pool.
    pub const EXPERTS: usize = 1 << 16;
    /// Experts one token may use in one step.
    pub const ROUTES: u32 = 64;
    /// Query or key heads of a step.
    pub const HEADS: u32 = 1 << 12;
    /// Width of a head.
    pub const HEAD_DIM: u32 = 1 << 12;
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
        for (n, what) in
            [(self.steps.len(), "steps"), (self.pools.len(), "pools"), (self.states.len(), "states"), (self.rotations.len(), "rotations")]
        {
            ensure(n <= Caps::ITEMS, what, || format!("{n} entries; at most {} are allowed", Caps::ITEMS))?;
        }
        v.matrix(&self.embedding.table, self.vocab, self.width, "embedding.table")?;
        finite(self.embedding.scale, "embedding.scale")?;
        for (i, r) in self.rotations.iter().enumerate() {
            let at = format!("rotations[{i}]");
            in_range(u32::try_from(r.frequencies.len()).unwrap_or(u32::MAX), Caps::HEAD_DIM / 2, &at)?;
            finite(r.amplitude, &at)?;
            r.frequencies.iter().try_for_each(|&f| finite(f, &at))?;
        }
        (0..self.pools.len()).try_for_each(|i| v.pool(i))?;
        for (i, s) in self.states.iter().enumerate() {
            in_range(s.kv_heads, Caps::HEADS, &format!("states[{i}].kv_heads"))?;
            in_range(s.head_dim, Caps::HEAD_DIM, &format!("states[{i}].head_dim"))?;
        }
        let mut owner = vec![None; self.states.len()];
        for (i, step) in self.steps.iter().enumerate() {
            v.step(step, &format!("steps[{i}] ({})", step.name))?;
            if let Work::Attention(a) = &step.work
                && let Some(other) = owner[a.state as usize].replace(i)
            {
                return fail(format!("steps[{i}].state"), format!("state {} already belongs to step {other}", a.state));
            }
        }
        v.norm(&self.head.norm, &[self.width], "head.norm")?;
        v.linear(&self.head.output, self.vocab, self.width, "head.output")?;
        finite(self.head.scale, "head.scale")
    }
}

struct Validator<'a> {
    plan: &'a Plan,
    tensors: &'a dyn Tensors,
}

impl Validator<'_> {
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
            if let Some(bad) = alias.iter().find(|&&r| r >= pool.records) {
                return fail(at, format!("alias to record {bad} of {}", pool.records));
            }
        }
        match pool.expert {
            Expert::Ffn { hidden, .. } => in_range(hidden, Caps::WIDTH, &at)?,
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
        let width = self.plan.width;
        if let Some(n) = &step.norm {
            self.norm(n, &[width], at)?;
        }
        if let Some(b) = &step.bias {
            self.vector(b, width, at)?;
        }
        let expert = match &step.routed {
            None => None,
            Some(r) => {
                let Some(pool) = self.plan.pools.get(r.pool as usize) else {
                    return fail(at, format!("pool {} of {}", r.pool, self.plan.pools.len()));
                };
                self.router(&r.router, pool.experts(), at)?;
                Some(&pool.expert)
            }
        };
        match &step.work {
            Work::Ffn(ffn) => {
                ensure(matches!(expert, None | Some(Expert::Ffn { .. })), at, || "the pool's experts are not feed-forward".into())?;
                ensure(expert.is_some() || ffn.shared.is_some(), at, || "neither routed experts nor an always-on part".into())?;
                ffn.shared.as_ref().map_or(Ok(()), |s| self.shared(s, at))
            }
            Work::Attention(a) => self.attention(a, expert, at),
        }
    }

    fn shared(&self, s: &SharedFfn, at: &str) -> Check {
        let width = self.plan.width;
        let Some((hidden, _)) = self.tensors.matrix(&s.up.weight) else {
            return fail(at, format!("there is no matrix {:?}", s.up.weight));
        };
        in_range(hidden, Caps::WIDTH, at)?;
        self.linear(&s.up, hidden, width, at)?;
        if let Some(g) = &s.gate {
            self.linear(g, hidden, width, at)?;
        }
        self.linear(&s.down, width, hidden, at)?;
        s.weigh.as_ref().map_or(Ok(()), |w| self.linear(w, 1, width, at))
    }

    fn router(&self, r: &Router, experts: u32, at: &str) -> Check {
        let width = self.plan.width;
        match &r.score {
            Score::Linear(l) => self.linear(l, experts, width, at)?,
            Score::Mlp { hidden, output, .. } => {
                let Some((g, _)) = self.tensors.matrix(&hidden.weight) else {
                    return fail(at, format!("there is no matrix {:?}", hidden.weight));
                };
                in_range(g, Caps::WIDTH, at)?;
                self.linear(hidden, g, width, at)?;
                self.linear(output, experts, g, at)?;
            }
            Score::Cosine { projection, centroids } => {
                let Some((g, _)) = self.tensors.matrix(&projection.weight) else {
                    return fail(at, format!("there is no matrix {:?}", projection.weight));
                };
                in_range(g, Caps::WIDTH, at)?;
                self.linear(projection, g, width, at)?;
                self.matrix(centroids, experts, g, at)?;
            }
        }
        let Rule::TopK { k } = r.select.rule;
        ensure(k >= 1 && k <= experts.min(Caps::ROUTES), at, || format!("top-{k} of {experts} experts"))?;
        ensure(r.select.by != Value::SoftmaxSelected, at, || "selection cannot depend on what is selected".into())?;
        finite(r.weigh.scale, at)
    }

    fn attention(&self, a: &Attention, expert: Option<&Expert>, at: &str) -> Check {
        in_range(a.heads, Caps::HEADS, at)?;
        in_range(a.head_dim, Caps::HEAD_DIM, at)?;
        finite(a.scale, at)?;
        let Some(state) = self.plan.states.get(a.state as usize) else {
            return fail(at, format!("state {} of {}", a.state, self.plan.states.len()));
        };
        ensure(state.head_dim == a.head_dim, at, || format!("head_dim {} but the state's is {}", a.head_dim, state.head_dim))?;
        ensure(a.heads.is_multiple_of(state.kv_heads), at, || {
            format!("{} query heads cannot share {} key heads evenly", a.heads, state.kv_heads)
        })?;
        let (query, kv, width) = (a.heads * a.head_dim, state.kv_heads * state.head_dim, self.plan.width);
        ensure((a.q == Part::Expert) == (a.o == Part::Expert), at, || "queries and outputs are routed together or not at all".into())?;
        match (&a.q, &a.o) {
            (Part::Shared(q), Part::Shared(o)) => {
                ensure(expert.is_none(), at, || "a pool is named but nothing of this attention is routed".into())?;
                self.linear(q, query, width, at)?;
                self.linear(o, width, query, at)?;
            }
            (Part::Expert, Part::Expert) => {
                let signature = Expert::QueryOutput { heads: a.heads, head_dim: a.head_dim };
                ensure(expert == Some(&signature), at, || format!("routed queries need a pool of {signature:?}"))?;
            }
            _ => return fail(at, "the input itself cannot serve as query or output"),
        }
        for part in [&a.k, &a.v] {
            match part {
                Part::Shared(l) => self.linear(l, kv, width, at)?,
                Part::Input => ensure(kv == width, at, || format!("the input is {width} wide, keys are {kv}"))?,
                Part::Expert => return fail(at, "routed keys and values need an expert that carries them"),
            }
        }
        ensure(!state.tied || a.k == a.v, at, || "a tied state needs equal keys and values".into())?;
        ensure(!state.tied || (a.rotation.is_none() && a.k_norm.is_none()), at, || {
            "a tied state cannot rotate or normalise its keys".into()
        })?;
        if let Some(n) = &a.q_norm {
            self.norm(n, &[a.head_dim, query], at)?;
        }
        if let Some(n) = &a.k_norm {
            self.norm(n, &[a.head_dim, kv], at)?;
        }
        if let Some(c) = a.clip {
            ensure(c.is_finite() && c > 0.0, at, || format!("clip {c}"))?;
        }
        if let Some(w) = a.window {
            ensure(w > 0, at, || "window 0".into())?;
        }
        match a.rotation {
            None => Ok(()),
            Some(r) => match self.plan.rotations.get(r as usize) {
                None => fail(at, format!("rotation {r} of {}", self.plan.rotations.len())),
                Some(rot) => ensure(2 * rot.frequencies.len() <= a.head_dim as usize, at, || {
                    format!("{} rotated pairs in a head of {}", rot.frequencies.len(), a.head_dim)
                }),
            },
        }
    }
}

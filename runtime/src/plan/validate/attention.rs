//! Attention steps: parts, caches, norms and rotations that fit together.

use super::{Caps, Check, Validator, ensure, fail, finite, in_range};
use crate::plan::{Attention, AttentionKind, Expert, Latent, Part, Pool, State};

impl Validator<'_> {
    /// `pool`: of the step's router. `width`: of the step's input.
    pub(super) fn attention(&self, a: &Attention, pool: Option<&Pool>, width: u32, at: &str) -> Check {
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
        // Widths of what q gives, of what o takes, of a key row.
        let kv = state.kv_heads.saturating_mul(state.head_dim);
        let (query, mixed) = match &a.latent {
            None => (a.heads * a.head_dim, a.heads * a.head_dim),
            Some(l) => self.latent(a, l, state, at)?,
        };
        self.parts(a, state, pool, (query, kv, mixed, width), at)?;
        ensure(!state.tied || a.k == a.v, at, || "a tied state needs equal keys and values".into())?;
        ensure(!state.tied || a.latent.is_some() || (a.rotation.is_none() && a.k_norm.is_none()), at, || {
            "a tied state cannot rotate or normalise its keys".into()
        })?;
        if let Some(n) = &a.q_norm {
            self.norm(n, &[a.head_dim, query], at)?;
        }
        if let Some(n) = &a.k_norm {
            let lens = a.latent.as_ref().map_or([a.head_dim, kv], |l| [l.rank; 2]);
            self.norm(n, &lens, at)?;
        }
        if let Some(c) = a.clip {
            ensure(c.is_finite() && c > 0.0, at, || format!("clip {c}"))?;
        }
        if let Some(w) = a.window {
            ensure(w > 0, at, || "window 0".into())?;
        }
        if let Some(s) = &a.sinks {
            ensure(a.kind == AttentionKind::Softmax, at, || "only a softmax has sinks".into())?;
            self.vector(s, a.heads, at)?;
        }
        if a.rotated_first {
            ensure(a.rotation.is_some() && a.latent.is_none(), at, || "rotated_first needs a rotation, and no latent".into())?;
            let norms = [&a.q_norm, &a.k_norm].into_iter().flatten();
            norms.into_iter().try_for_each(|n| self.norm(n, &[a.head_dim], at))?;
        }
        let Some(r) = a.rotation else { return Ok(()) };
        let Some(rotation) = self.plan.rotations.get(r as usize) else {
            return fail(at, format!("rotation {r} of {}", self.plan.rotations.len()));
        };
        let turned = 2 * rotation.frequencies.len();
        match &a.latent {
            None => ensure(turned <= a.head_dim as usize, at, || format!("{turned} rotated elements in a head of {}", a.head_dim)),
            Some(l) => ensure(turned == (a.head_dim - l.rank) as usize, at, || {
                format!("{turned} rotated elements; the latent leaves {}", a.head_dim - l.rank)
            }),
        }
    }

    /// Which parts may go together, and their shapes.
    fn parts(&self, a: &Attention, state: &State, pool: Option<&Pool>, (query, kv, mixed, width): (u32, u32, u32, u32), at: &str) -> Check {
        let module = |p: &Pool| match p.expert {
            Expert::Attention { heads, kv_heads, head_dim, .. } => (heads, kv_heads, head_dim) == (a.heads, state.kv_heads, a.head_dim),
            _ => false,
        };
        let needs =
            |what: &str| format!("needs a pool of {what} with {} query and {} key heads of {}", a.heads, state.kv_heads, a.head_dim);
        match (&a.q, &a.k, &a.v, &a.o) {
            (Part::Expert, Part::Expert, Part::Expert, Part::Expert) => {
                ensure(pool.is_some_and(module), at, || needs("attention modules"))?;
                ensure(state.grouped && a.latent.is_none(), at, || "keys of experts need a state with a group for each".into())
            }
            (Part::Sum { .. }, Part::Sum { .. }, Part::Sum { .. }, Part::Expert) => {
                ensure(a.q == a.k && a.k == a.v, at, || "queries, keys and values are summed alike or not at all".into())?;
                ensure(pool.is_some_and(module), at, || needs("attention modules"))?;
                ensure(!state.grouped && a.latent.is_none(), at, || "summed keys need a state without groups".into())
            }
            (Part::Expert, k, v, Part::Expert) => {
                let signature = Expert::QueryOutput { heads: a.heads, head_dim: a.head_dim };
                ensure(pool.is_some_and(|p| p.expert == signature), at, || needs("queries and outputs"))?;
                ensure(!state.grouped && a.latent.is_none(), at, || "shared keys need a state without groups".into())?;
                [k, v].into_iter().try_for_each(|part| self.key(part, kv, width, at))
            }
            (q, k, v, Part::Shared(o)) => {
                ensure(pool.is_none(), at, || "a pool is named but nothing of this attention is routed".into())?;
                ensure(!state.grouped, at, || "shared keys need a state without groups".into())?;
                self.query(q, query, width, at)?;
                [k, v].into_iter().try_for_each(|part| self.key(part, kv, width, at))?;
                self.linear(o, width, mixed, at)
            }
            _ => fail(at, "these sources of queries, keys, values and outputs do not go together"),
        }
    }

    fn query(&self, part: &Part, query: u32, width: u32, at: &str) -> Check {
        match part {
            Part::Shared(l) => self.linear(l, query, width, at),
            Part::LowRank { down, norm, up } => {
                let rank = self.rows(&down.weight, at)?;
                self.linear(down, rank, width, at)?;
                self.norm(norm, &[rank], at)?;
                self.linear(up, query, rank, at)
            }
            Part::Expert | Part::Sum { .. } => fail(at, "queries and outputs are routed together or not at all"),
            Part::Input => fail(at, "the input itself cannot serve as query or output"),
        }
    }

    fn key(&self, part: &Part, kv: u32, width: u32, at: &str) -> Check {
        match part {
            Part::Shared(l) => self.linear(l, kv, width, at),
            Part::Input => ensure(kv == width, at, || format!("the input is {width} wide, keys are {kv}")),
            Part::Expert | Part::Sum { .. } => fail(at, "routed keys and values need routed queries of the same kind"),
            Part::LowRank { .. } => fail(at, "keys and values in two stages are a latent"),
        }
    }

    /// Widths of all queries and of what all heads give.
    fn latent(&self, a: &Attention, l: &Latent, state: &State, at: &str) -> Result<(u32, u32), super::PlanError> {
        in_range(l.rank, a.head_dim, at)?;
        in_range(l.query, Caps::HEAD_DIM, at)?;
        in_range(l.value, Caps::HEAD_DIM, at)?;
        ensure(state.tied && state.kv_heads == 1 && matches!(a.k, Part::Shared(_)), at, || {
            "a latent needs a tied state with one head, and one matrix for its rows".into()
        })?;
        ensure(a.kind == AttentionKind::Softmax && a.q_norm.is_none() && a.clip.is_none(), at, || {
            "a latent goes with plain softmax attention only".into()
        })?;
        self.matrix(&l.absorb, a.heads.saturating_mul(Latent::padded(l.rank)), l.query, at)?;
        self.matrix(&l.expand, a.heads.saturating_mul(Latent::padded(l.value)), l.rank, at)?;
        Ok((a.heads * (l.query + a.head_dim - l.rank), a.heads * l.value))
    }
}

//! Routers: every network has the shapes it needs, and what is asked for can be chosen.

use super::{Caps, Check, Validator, ensure, fail, finite};
use crate::plan::{Cell, Feature, GroupBy, Linear, Router, Rule, Score, Transform, Value};

impl Validator<'_> {
    /// `width`: of the step's input.
    pub(super) fn router(&self, r: &Router, experts: u32, width: u32, at: &str) -> Check {
        let width = match r.feature {
            Feature::Input => width,
            Feature::Stream(s) => match self.plan.stream_width(s) {
                Some(width) => width,
                None => return fail(at, format!("the router looks at stream {s} of {}", self.plan.streams.len() + 1)),
            },
        };
        self.score(&r.score, experts, width, at)?;
        if let Some(Transform::Relu { norm: Some(n) }) = &r.transform {
            self.norm(n, &[experts], at)?;
        }
        if let Some(bias) = &r.select.bias {
            self.vector(bias, experts, at)?;
        }
        if let Some(g) = r.select.groups {
            ensure(g.count >= 1 && experts.is_multiple_of(g.count), at, || format!("{experts} experts in {} groups", g.count))?;
            ensure((1..=g.count).contains(&g.keep), at, || format!("{} of {} groups", g.keep, g.count))?;
            let pairs = g.by == GroupBy::Best || experts / g.count >= 2;
            ensure(pairs, at, || "groups of one expert have no two best".into())?;
        }
        if let Some(p) = &r.pruned {
            ensure(p.experts.is_sorted_by(|a, b| a < b), at, || "pruned experts are not in ascending order".into())?;
            ensure(p.experts.last().is_none_or(|&e| e < experts), at, || format!("a pruned expert beyond {experts}"))?;
            ensure(p.experts.len() < experts as usize, at, || "every expert is pruned".into())?;
        }
        let available = r.available(experts);
        match r.select.rule {
            Rule::TopK { k } => ensure((1..=available).contains(&k), at, || format!("top-{k} of {available} experts"))?,
            Rule::TopP { p } => ensure(p.is_finite() && p >= 0.0, at, || format!("top-p of {p}"))?,
            Rule::Rank { rank } => ensure(rank < available, at, || format!("rank {rank} of {available} experts"))?,
            Rule::NonZero => {}
            Rule::Certain { p, least, index, threshold, epsilon } => {
                let numbers = [p, index, threshold, epsilon];
                ensure(numbers.iter().all(|n| n.is_finite() && *n >= 0.0), at, || format!("a rule with the numbers {numbers:?}"))?;
                ensure((1..=available).contains(&least), at, || format!("at least {least} of {available} experts"))?;
            }
        }
        let most = r.max_routes(experts);
        ensure(most <= Caps::ROUTES, at, || format!("a token may use {most} experts; at most {} are allowed", Caps::ROUTES))?;
        let after = matches!(r.select.by, Value::SoftmaxSelected | Value::SoftmaxClose { .. });
        ensure(!after, at, || "selection cannot depend on what is selected".into())?;
        if let Value::SoftmaxClose { margin } = r.weigh.by {
            ensure(margin.is_finite() && margin >= 0.0, at, || format!("margin {margin}"))?;
        }
        ensure(r.weigh.epsilon.is_finite() && r.weigh.epsilon >= 0.0, at, || format!("epsilon {}", r.weigh.epsilon))?;
        ensure(r.weigh.floor.is_finite() && r.weigh.floor >= 0.0, at, || format!("floor {}", r.weigh.floor))?;
        finite(r.weigh.scale, at)
    }

    fn score(&self, score: &Score, experts: u32, width: u32, at: &str) -> Check {
        match score {
            Score::Linear(l) => self.linear(l, experts, width, at),
            Score::Mlp { hidden, output, activation } => {
                let g = self.rows(&hidden.weight, at)?;
                super::activates(*activation, false, at)?;
                self.linear(hidden, g, width, at)?;
                self.linear(output, experts, g, at)
            }
            Score::Cosine { projection, centroids } => {
                let g = self.rows(&projection.weight, at)?;
                self.linear(projection, g, width, at)?;
                self.matrix(centroids, experts, g, at)
            }
            Score::Recurrent { cell, memory, input, hidden, output } => {
                self.recurrent(*cell, *memory, [input, hidden, output], (experts, width), at)
            }
        }
    }

    fn recurrent(&self, cell: Cell, memory: u32, [input, hidden, output]: [&Linear; 3], (experts, width): (u32, u32), at: &str) -> Check {
        let Some(&g) = self.plan.memories.get(memory as usize) else {
            return fail(at, format!("memory {memory} of {}", self.plan.memories.len()));
        };
        let rows = match cell {
            Cell::Gru => g.saturating_mul(3),
            Cell::Tanh => g,
        };
        self.linear(input, rows, width, at)?;
        self.linear(hidden, rows, g, at)?;
        self.linear(output, experts, g, at)
    }
}

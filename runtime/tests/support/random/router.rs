//! Drawing pools and routers.

use hotset::plan::{
    Cell, Expert, Feature, GroupBy, Groups, Name, Norm, Pool, Pruned, Routed, Router, Rule, Score, Select, Semantics, Transform, Value,
    Weigh,
};

use super::Draw;

impl Draw {
    /// An existing pool of the same signature now and then, else a new one.
    fn pool(&mut self, expert: Expert) -> u32 {
        let pools = &mut self.model.plan.pools;
        if let Some(i) = pools.iter().position(|p| p.expert == expert).filter(|_| self.random.coin()) {
            return i as u32;
        }
        let records = 1 + self.random.below(9);
        let ids = records + self.random.below(4);
        // Now and then an expert that computes nothing.
        let skip = if self.random.coin() { self.random.below(ids) } else { ids };
        let alias = self.random.coin().then(|| (0..ids).map(|i| (i != skip).then_some((i * 7 + 3) % records)).collect());
        pools.push(Pool { name: format!("pool{}", pools.len()), expert, codec: self.codec, records, alias });
        pools.len() as u32 - 1
    }

    /// A router of a step that reads `stream`, with its pool.
    pub(super) fn routed(&mut self, step: &str, stream: u32, expert: Expert) -> Routed {
        let pool = self.pool(expert);
        let experts = self.model.plan.pools[pool as usize].experts();
        let others = 1 + self.model.plan.streams.len() as u32;
        let feature = match self.random.below(4) {
            0 => Feature::Stream(self.random.below(others)),
            _ => Feature::Input,
        };
        let width = match feature {
            Feature::Input => self.width(stream),
            Feature::Stream(s) => self.width(s),
        };
        let score = self.score(step, experts, width);
        let router = match self.random.below(6) {
            0 => self.top_p(score),
            1 => self.non_zero(step, score, experts),
            2 => self.biased(step, score, experts),
            3 => self.close(score, experts),
            _ => self.top_k(score, experts),
        };
        let router = Router { feature, ..router };
        Routed { pool, router: if self.random.below(3) == 0 { self.prune(router, experts) } else { router } }
    }

    /// A router that does without about a third of the experts, as far as its rule allows.
    fn prune(&mut self, router: Router, experts: u32) -> Router {
        let need = match router.select.rule {
            Rule::TopK { k } => k,
            Rule::Rank { rank } => rank + 1,
            Rule::TopP { .. } | Rule::NonZero | Rule::Certain { .. } => 1,
        };
        let without = |experts: Vec<u32>, semantics| Router { pruned: Some(Pruned { experts, semantics }), ..router.clone() };
        let semantics = self.random.pick(&[Semantics::Masked, Semantics::Deleted]);
        let mut dropped = Vec::new();
        for e in 0..experts {
            let more: Vec<u32> = dropped.iter().copied().chain([e]).collect();
            if self.random.below(3) == 0 && without(more.clone(), semantics).available(experts) >= need {
                dropped = more;
            }
        }
        if dropped.is_empty() { router } else { without(dropped, semantics) }
    }

    fn score(&mut self, step: &str, experts: u32, width: u32) -> Score {
        let hidden = self.random.pick(&[16, 20, 36]);
        match self.random.below(4) {
            0 => Score::Linear(self.linear(&format!("{step}.router"), experts, width)),
            1 => Score::Mlp {
                hidden: self.linear(&format!("{step}.router.hidden"), hidden, width),
                activation: self.activation(),
                output: self.linear(&format!("{step}.router.output"), experts, hidden),
            },
            2 => Score::Cosine {
                projection: self.linear(&format!("{step}.router.projection"), hidden, width),
                centroids: self.matrix(&format!("{step}.router.centroids"), experts, hidden),
            },
            _ => {
                // Two in three use what an earlier router left.
                let memories = &mut self.model.plan.memories;
                if memories.is_empty() || self.random.below(3) == 0 {
                    memories.push(hidden);
                }
                let (memory, hidden) = (memories.len() as u32 - 1, memories[memories.len() - 1]);
                let cell = self.random.pick(&[Cell::Gru, Cell::Tanh]);
                let rows = if cell == Cell::Gru { 3 * hidden } else { hidden };
                Score::Recurrent {
                    cell,
                    memory,
                    input: self.linear(&format!("{step}.router.input"), rows, width),
                    hidden: self.linear(&format!("{step}.router.hidden"), rows, hidden),
                    output: self.linear(&format!("{step}.router.output"), experts, hidden),
                }
            }
        }
    }

    fn top_k(&mut self, score: Score, experts: u32) -> Router {
        let k = 1 + self.random.below(experts.min(4));
        let select = Select { by: self.random.pick(&[Value::Logit, Value::Softmax]), ..Select::top_k(k) };
        let select = match self.random.below(6) {
            0 => Select { rule: Rule::Rank { rank: k - 1 }, ..select },
            _ => select,
        };
        let by = self.random.pick(&[Value::Softmax, Value::SoftmaxSelected, Value::Logit, Value::Sigmoid]);
        // Logits may sum to nearly nothing, which no tolerance survives.
        let normalise = by != Value::Logit && self.random.coin();
        Router::new(score, select, Weigh { normalise, scale: self.random.pick(&[1.0, 2.5]), ..Weigh::by(by) })
    }

    fn top_p(&mut self, score: Score) -> Router {
        let rule = Rule::TopP { p: self.random.pick(&[0.05, 0.4, 0.9]) };
        let select = Select { by: Value::Softmax, rule, ..Select::top_k(1) };
        Router::new(score, select, Weigh { normalise: self.random.coin(), epsilon: 1e-3, ..Weigh::by(Value::Softmax) })
    }

    fn non_zero(&mut self, step: &str, score: Score, experts: u32) -> Router {
        let norm = self.random.coin().then(|| Norm::Rms { weight: self.vector(format!("{step}.router.norm"), experts, 1.0), eps: 1e-5 });
        // Normalised by the norm or by the sum.
        let normalise = norm.is_none();
        let select = Select { rule: Rule::NonZero, ..Select::top_k(1) };
        let weigh = Weigh { normalise, epsilon: 0.5, ..Weigh::by(Value::Logit) };
        Router { transform: Some(Transform::Relu { norm }), ..Router::new(score, select, weigh) }
    }

    /// A selection bias, and groups where the experts can be divided.
    fn biased(&mut self, step: &str, score: Score, experts: u32) -> Router {
        let by = self.random.pick(&[Value::Sigmoid, Value::Softmax]);
        let bias: Option<Name> = Some(self.vector(format!("{step}.router.selection"), experts, 0.0));
        let count = (2..=experts).find(|n| experts.is_multiple_of(*n) && experts / n > 1);
        let groups = count.map(|count| Groups {
            count,
            keep: 1 + self.random.below(count),
            by: self.random.pick(&[GroupBy::Best, GroupBy::BestTwo]),
        });
        let select = Select { by, bias, groups, ..Select::top_k(1) };
        let k = 1 + self.random.below(select.available(experts).min(3));
        let select = Select { rule: Rule::TopK { k }, ..select };
        let weigh = Weigh { normalise: self.random.coin(), epsilon: 1e-6, scale: 2.5, ..Weigh::by(by) };
        Router::new(score, select, weigh)
    }

    fn close(&mut self, score: Score, experts: u32) -> Router {
        let margin = self.random.pick(&[0.02, 0.5]);
        Router::new(score, Select::top_k(experts.min(2)), Weigh::by(Value::SoftmaxClose { margin }))
    }
}

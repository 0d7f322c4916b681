//! Activations of one batch, one buffer for each role, sized for the largest step that needs it.
//!
//! Rows that feed a product are padded to whole groups of 32 columns, rows that a product writes to whole panels of 16. What stands in the
//! padding is finite and meets zero weights.

use super::memory::Maker;
use super::weights::padded_rows;
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::plan::{Attention, Expert, Part, Plan, Score, Step, Work};

/// Tokens of a batch at most: enough to give each expert of a large pool a tile's worth.
const BATCH: u64 = 256;
/// Most splits of the visible keys.
pub(super) const SPLITS: u32 = 16;
/// Most slices of the vocabulary, as in `best_merge`.
const SLICES: u32 = 1024;
/// Most bytes of logits held at once, unless a single row takes more.
const LOGITS: u64 = 8 << 20;

/// f32 elements of a row that feeds a product.
pub(super) fn row(columns: u32) -> u32 {
    columns.next_multiple_of(GROUP as u32)
}

/// Tokens of a slice of the vocabulary, and the number of slices.
pub(super) fn slices(vocab: u32) -> (u32, u32) {
    let slice = vocab.div_ceil(SLICES).max(2048);
    (slice, vocab.div_ceil(slice))
}

/// Routes of a token at a step; 1 where nothing is routed.
pub(super) fn routes(plan: &Plan, step: &Step) -> u32 {
    step.routed.as_ref().map_or(1, |r| r.router.select.rule.max_routes(plan.pools[r.pool as usize].experts()))
}

/// Where a single token's choice at a step begins among those of all steps.
pub(super) fn choice(plan: &Plan, step: usize) -> u32 {
    plan.steps[..step].iter().map(|s| routes(plan, s)).sum()
}

/// Where an attention step's projections are in `projected`. In f32 elements.
pub(super) struct Projected {
    /// Between query sets.
    pub(super) q_stride: u32,
    /// First key and value of token 0.
    pub(super) k: u32,
    pub(super) v: u32,
    /// Between tokens' keys.
    pub(super) kv_stride: u32,
    /// All of it, for a batch.
    pub(super) len: u64,
}

impl Projected {
    pub(super) fn new(a: &Attention, kv_heads: u32, routes: u32, batch: u32) -> Projected {
        let (query, kv) = (padded_rows(a.heads * a.head_dim), padded_rows(kv_heads * a.head_dim));
        if a.q == Part::Expert {
            let k = batch * routes * query;
            return Projected { q_stride: query, k, v: k + kv, kv_stride: 2 * kv, len: u64::from(k) + u64::from(batch * 2 * kv) };
        }
        let stride = query + 2 * kv;
        Projected { q_stride: stride, k: query, v: query + kv, kv_stride: stride, len: u64::from(batch) * u64::from(stride) }
    }
}

/// The buffers. Shapes in comments: `T` tokens of a batch, `k` routes of a token, `D` padded width.
pub(super) struct Scratch<B = wgpu::Buffer> {
    /// Tokens of a batch.
    pub(super) batch: u32,
    /// Tokens whose logits fit; the head takes as many at a time.
    pub(super) outputs: u32,
    pub(super) tokens: B,        // [T] u32
    pub(super) turns: B,         // for each rotation [T, pairs] cosine and sine
    pub(super) x: B,             // [T, D] residual stream
    pub(super) a: B,             // [T, D] normalised input of the step
    pub(super) dense: B,         // [T, D] result of the step's part that is not routed
    pub(super) routed: B,        // [T, k, D] result of each route
    pub(super) projected: B,     // see Projected
    pub(super) queries: B,       // [T, k, H, h padded to 4]
    pub(super) mixed: B,         // [T, k, padded H·h]
    pub(super) parts: B,         // [k, H, splits, h]
    pub(super) stats: B,         // [k, H, splits] two each
    pub(super) hidden: B,        // [T, k, padded F] or [T, padded S]
    pub(super) scores: B,        // [T, padded E] router logits, then [T, 16] logits of the always-on part's gate
    pub(super) router_hidden: B, // [T, padded G]
    pub(super) ids: B,           // [T, k] u32
    pub(super) weights: B,       // [T, k]
    pub(super) starts: B,        // [E] u32
    pub(super) sorted: B,        // [T, k] u32
    pub(super) tiles: B,         // [1 + tiles] four u32 each
    pub(super) logits: B,        // [outputs, padded V]
    pub(super) penalised: B,     // [V] u32
    pub(super) candidates: B,    // [slices, MAX_CANDIDATES] two each
    pub(super) slice_stats: B,   // [slices] four each
    pub(super) best: B,          // four f32, then [MAX_CANDIDATES] two each
}

/// f32 elements that one token needs in each role that grows with the batch.
#[derive(Default)]
struct PerToken {
    projected: u64,
    queries: u64,
    mixed: u64,
    hidden: u64,
    scores: u64,
    router_hidden: u64,
    routes: u64,
    routed: u64,
    /// Not per token.
    parts: u64,
    experts: u64,
}

impl PerToken {
    fn of(plan: &Plan, hidden_of: &dyn Fn(&str) -> Result<u32>) -> Result<PerToken> {
        let mut n = PerToken::default();
        let widen = |slot: &mut u64, value: u64| *slot = (*slot).max(value);
        for step in &plan.steps {
            let k = routes(plan, step);
            if let Some(r) = &step.routed {
                let pool = &plan.pools[r.pool as usize];
                widen(&mut n.routes, k.into());
                widen(&mut n.routed, u64::from(k) * u64::from(row(plan.width)));
                widen(&mut n.experts, pool.experts().into());
                if let Expert::Ffn { hidden, .. } = pool.expert {
                    widen(&mut n.hidden, u64::from(k) * u64::from(row(hidden)));
                }
                widen(&mut n.scores, u64::from(padded_rows(pool.experts())) + 16);
                match &r.router.score {
                    Score::Linear(_) => {}
                    Score::Recurrent { .. } => unimplemented!("fast path"),
                    Score::Mlp { hidden: l, .. } | Score::Cosine { projection: l, .. } => {
                        widen(&mut n.router_hidden, row(hidden_of(&l.weight)?).into());
                    }
                }
            }
            match &step.work {
                Work::Convolution(_) | Work::Identity => unimplemented!("fast path"),
                Work::Ffn(f) => {
                    if let Some(s) = &f.shared {
                        widen(&mut n.hidden, row(hidden_of(&s.up.weight)?).into());
                        widen(&mut n.scores, 16);
                    }
                }
                Work::Attention(a) => {
                    let kv_heads = plan.states[a.state as usize].kv_heads;
                    widen(&mut n.projected, Projected::new(a, kv_heads, k, 1).len);
                    let heads = u64::from(k) * u64::from(a.heads);
                    widen(&mut n.queries, heads * u64::from(a.head_dim.next_multiple_of(4)));
                    widen(&mut n.mixed, u64::from(k) * u64::from(row(a.heads * a.head_dim)));
                    widen(&mut n.parts, heads * u64::from(SPLITS) * u64::from(a.head_dim.max(2)));
                }
            }
        }
        Ok(n)
    }

    fn largest(&self) -> u64 {
        [self.projected, self.queries, self.mixed, self.hidden, self.scores, self.router_hidden, self.routed].into_iter().max().unwrap_or(0)
    }
}

impl<B> Scratch<B> {
    /// Buffers for batches of at most `context` tokens. `binding`: most bytes that the device binds at once. `rows_of` gives the rows of a
    /// dense matrix.
    ///
    /// # Errors
    /// When one token needs more than a binding holds, or there is no room.
    pub(super) fn new(
        binding: u64,
        plan: &Plan,
        context: usize,
        rows_of: &dyn Fn(&str) -> Result<u32>,
        make: &mut impl Maker<Buffer = B>,
    ) -> Result<Scratch<B>> {
        let n = PerToken::of(plan, rows_of)?;
        let width = u64::from(row(plan.width));
        let batch = BATCH.min(context as u64).min(binding / 4 / n.largest().max(width));
        if batch == 0 {
            return Err(Error::Device(format!("the activations of one token do not fit the {binding} bytes that this GPU binds at once")));
        }
        let vocab = u64::from(padded_rows(plan.vocab));
        let outputs = (LOGITS.min(binding) / 4 / vocab).clamp(1, batch);
        let turns: u64 = plan.rotations.iter().map(|r| r.frequencies.len() as u64 * 2).sum();
        let tiles = 1 + batch * n.routes / 32 + n.experts.min(batch * n.routes);
        let mut floats = |label: &str, len: u64| make.storage(label, len * 4);
        let slices = u64::from(slices(plan.vocab).1);
        let candidates = crate::model::MAX_CANDIDATES as u64 * 2;
        Ok(Scratch {
            batch: u32::try_from(batch).unwrap_or(u32::MAX),
            outputs: u32::try_from(outputs).unwrap_or(u32::MAX),
            tokens: floats("token ids", batch)?,
            turns: floats("rotations", batch * turns)?,
            x: floats("the residual stream", batch * width)?,
            a: floats("inputs", batch * width)?,
            dense: floats("results", batch * width)?,
            routed: floats("results of routes", batch * n.routed)?,
            projected: floats("projections", batch * n.projected)?,
            queries: floats("queries", batch * n.queries)?,
            mixed: floats("mixed values", batch * n.mixed)?,
            parts: floats("splits", n.parts)?,
            stats: floats("splits", n.parts)?,
            hidden: floats("hidden layers", batch * n.hidden)?,
            scores: floats("router logits", batch * n.scores)?,
            router_hidden: floats("router layers", batch * n.router_hidden)?,
            ids: floats("routes", batch * n.routes)?,
            weights: floats("route weights", batch * n.routes)?,
            starts: floats("experts' lists", n.experts)?,
            sorted: floats("experts' lists", batch * n.routes)?,
            tiles: floats("tiles", tiles * 4)?,
            logits: floats("logits", outputs * vocab)?,
            penalised: floats("penalised tokens", vocab)?,
            candidates: floats("candidates", slices * candidates)?,
            slice_stats: floats("candidates", slices * 4)?,
            best: floats("candidates", 4 + candidates)?,
        })
    }

    /// Buffers that numbers which are not finite can hide in.
    pub(super) fn activations(&self) -> [&B; 10] {
        [
            &self.x,
            &self.a,
            &self.dense,
            &self.routed,
            &self.projected,
            &self.queries,
            &self.mixed,
            &self.hidden,
            &self.scores,
            &self.router_hidden,
        ]
    }
}

//! Activations of one batch, one buffer for each role, sized for the largest step that needs it.
//!
//! Rows that feed a product are padded to whole groups of 32 columns, rows that a product writes to whole panels of 16. What stands in the
//! padding is finite and meets zero weights.

use super::memory::Maker;
use super::weights::padded_rows;
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::model::{Routing, RunOptions};
use crate::plan::{Attention, Cell, Expert, Latent, Part, Plan, Pruned, Score, State, Step, Work};

/// Tokens of a batch at most: enough to give each expert of a large pool a tile's worth.
const BATCH: u64 = 256;
/// Workgroups that every device takes in each dimension of a grid, one of which is routes.
const GRID: u64 = 65_535;
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

/// Routes of a token at a step, at most; 1 where nothing is routed.
pub(super) fn routes(plan: &Plan, step: &Step, routing: Routing) -> u32 {
    step.routed.as_ref().map_or(1, |r| {
        let experts = plan.pools[r.pool as usize].experts();
        routing.rule(&r.router, experts).max_routes(r.router.available(experts))
    })
}

/// Rows of the two matrices of a recurrent router's cell.
pub(super) fn cell_rows(plan: &Plan, cell: Cell, memory: u32) -> u32 {
    let width = plan.memories[memory as usize];
    match cell {
        Cell::Gru => 3 * width,
        Cell::Tanh => width,
    }
}

/// Where a single token's choice at a step begins among those of all steps.
pub(super) fn choice(plan: &Plan, step: usize, routing: Routing) -> u32 {
    plan.steps[..step].iter().map(|s| routes(plan, s, routing)).sum()
}

/// A bit for each expert of each pruned router, set where the expert is not chosen any more: 32 experts to a word, and whole words for each
/// step. They lie behind the choices of a single token.
pub(super) fn masks(plan: &Plan) -> Vec<u32> {
    let mut out = Vec::new();
    for (pool, pruned) in plan.steps.iter().filter_map(pruned) {
        let mut words = vec![0; mask_words(plan, pool)];
        pruned.experts.iter().for_each(|&e| words[e as usize / 32] |= 1 << (e % 32));
        out.extend(words);
    }
    out
}

/// Where the mask of a step begins, among the words of [`masks`].
pub(super) fn mask(plan: &Plan, step: usize) -> u32 {
    plan.steps[..step].iter().filter_map(pruned).map(|(pool, _)| mask_words(plan, pool) as u32).sum()
}

fn mask_words(plan: &Plan, pool: u32) -> usize {
    plan.pools[pool as usize].experts().div_ceil(32) as usize
}

fn pruned(step: &Step) -> Option<(u32, &Pruned)> {
    step.routed.as_ref().and_then(|r| Some((r.pool, r.router.pruned.as_ref()?)))
}

/// Query sets of a token at an attention step: one for each route where queries are routed, else a single one.
pub(super) fn query_sets(plan: &Plan, step: &Step, a: &Attention, routing: Routing) -> u32 {
    if a.q == Part::Expert { routes(plan, step, routing) } else { 1 }
}

/// Where an attention step's projections are in `projected`. In f32 elements.
#[derive(Clone, Copy)]
pub(super) struct Projected {
    /// Between query sets.
    pub(super) q_stride: u32,
    /// First key and value of token 0; of its first route where each has its own.
    pub(super) k: u32,
    pub(super) v: u32,
    /// Between these keys.
    pub(super) kv_stride: u32,
    /// All of it, for a batch.
    pub(super) len: u64,
}

impl Projected {
    /// `sets`: query sets of a token. Queries of a latent are those mapped to it, without their rotated parts.
    pub(super) fn new(a: &Attention, state: &State, sets: u32, batch: u32) -> Projected {
        let query = a.latent.as_ref().map_or(padded_rows(a.heads * a.head_dim), |l| a.heads * Latent::padded(l.rank));
        let kv = padded_rows(state.kv_heads * a.head_dim);
        if a.q == Part::Expert && !state.grouped {
            let k = batch * sets * query;
            return Projected { q_stride: query, k, v: k + kv, kv_stride: 2 * kv, len: u64::from(k) + u64::from(batch * 2 * kv) };
        }
        let stride = query + 2 * kv;
        let len = u64::from(batch) * u64::from(sets) * u64::from(stride);
        Projected { q_stride: stride, k: query, v: query + kv, kv_stride: stride, len }
    }
}

/// The buffers. Shapes in comments: `T` tokens of a batch, `k` routes of a token, `D` padded width of the widest stream.
pub(super) struct Scratch<B = wgpu::Buffer> {
    /// Tokens of a batch.
    pub(super) batch: u32,
    /// Tokens whose logits fit; the head takes as many at a time.
    pub(super) outputs: u32,
    pub(super) tokens: B,        // [T] u32
    pub(super) turns: B,         // for each rotation [T, pairs] cosine and sine
    pub(super) streams: Vec<B>,  // [T, padded width] each, the residual stream first
    pub(super) memories: Vec<B>, // [T, padded G] each, what recurrent routers carry from step to step
    pub(super) a: B,             // [T, D] normalised input of the step
    pub(super) dense: B,         // [T, D] result of the step's part that is not routed
    pub(super) routed: B,        // [T, k, D] result of each route
    pub(super) projected: B,     // see Projected
    pub(super) queries: B,       // [T, k, H, h padded to 4]
    pub(super) mixed: B,         // [T, k, padded H·h]; before that, rows on their way to a product
    pub(super) parts: B,         // [k, H, splits, h]
    pub(super) stats: B,         // [k, H, splits] two each
    pub(super) hidden: B,        // [T, k, padded F] or [T, padded S]; of attention what comes before `projected` and behind `mixed`
    pub(super) scores: B,        // [T, padded E] router logits, then [T, 16] logits of the always-on part's gate
    pub(super) router_hidden: B, // [T, padded G], or twice [T, padded 3G]
    pub(super) ids: B,           // [T, k] u32, NOBODY where a token has fewer routes
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
    fn of(plan: &Plan, routing: Routing, hidden_of: &dyn Fn(&str) -> Result<u32>) -> Result<PerToken> {
        let mut n = PerToken::default();
        let widen = |slot: &mut u64, value: u64| *slot = (*slot).max(value);
        for step in &plan.steps {
            let k = routes(plan, step, routing);
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
                    Score::Mlp { hidden: l, .. } | Score::Cosine { projection: l, .. } => {
                        widen(&mut n.router_hidden, row(hidden_of(&l.weight)?).into());
                    }
                    Score::Recurrent { cell, memory, .. } => {
                        widen(&mut n.router_hidden, 2 * u64::from(padded_rows(cell_rows(plan, *cell, *memory))));
                    }
                }
            }
            match &step.work {
                Work::Identity => {}
                Work::Ffn(f) => {
                    if let Some(s) = &f.shared {
                        widen(&mut n.hidden, row(hidden_of(&s.up.weight)?).into());
                        widen(&mut n.scores, 16);
                    }
                }
                Work::Convolution(c) => {
                    let width = plan.states[c.state as usize].head_dim;
                    widen(&mut n.projected, padded_rows(3 * width).into());
                    widen(&mut n.mixed, row(width).into());
                }
                Work::Attention(a) => {
                    let (state, sets) = (&plan.states[a.state as usize], query_sets(plan, step, a, routing));
                    let projected = Projected::new(a, state, sets, 1);
                    widen(&mut n.projected, projected.len);
                    let heads = u64::from(sets) * u64::from(a.heads);
                    widen(&mut n.queries, heads * u64::from(a.head_dim.next_multiple_of(4)));
                    widen(&mut n.mixed, u64::from(sets) * u64::from(row(a.heads * a.head_dim)));
                    widen(&mut n.parts, heads * u64::from(SPLITS) * u64::from(a.head_dim.max(2)));
                    if matches!(a.q, Part::Sum { .. }) {
                        widen(&mut n.hidden, u64::from(k) * u64::from(projected.q_stride));
                    }
                    if let Part::LowRank { down, .. } = &a.q {
                        let rank = row(hidden_of(&down.weight)?);
                        widen(&mut n.hidden, rank.into());
                        widen(&mut n.mixed, rank.into());
                    }
                    if let Some(l) = &a.latent {
                        let heads = u64::from(a.heads);
                        widen(&mut n.hidden, row(a.heads * (l.query + a.head_dim - l.rank)).into());
                        widen(&mut n.hidden, row(a.heads * Latent::padded(l.value)).into());
                        widen(&mut n.mixed, heads * u64::from(row(l.rank.max(l.query).max(l.value))));
                    }
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
    /// Buffers for the batches of a run. `binding`: most bytes that the device binds at once. `rows_of` gives the rows of a
    /// dense matrix.
    ///
    /// # Errors
    /// When one token needs more than a binding holds, or there is no room.
    pub(super) fn new(
        binding: u64,
        plan: &Plan,
        options: RunOptions,
        rows_of: &dyn Fn(&str) -> Result<u32>,
        make: &mut impl Maker<Buffer = B>,
    ) -> Result<Scratch<B>> {
        let n = PerToken::of(plan, options.routing, rows_of)?;
        let widths: Vec<u64> = std::iter::once(plan.width).chain(plan.streams.iter().map(|s| s.width)).map(|w| row(w).into()).collect();
        let width = widths.iter().copied().max().unwrap_or(0);
        let batch = BATCH.min(options.context as u64).min(binding / 4 / n.largest().max(width)).min(GRID / n.routes.max(1));
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
            streams: widths.iter().map(|w| floats("a stream", batch * w)).collect::<Result<_>>()?,
            memories: plan.memories.iter().map(|&g| floats("a router's memory", batch * u64::from(row(g)))).collect::<Result<_>>()?,
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
    pub(super) fn activations(&self) -> impl Iterator<Item = &B> {
        let roles = [
            &self.a,
            &self.dense,
            &self.routed,
            &self.projected,
            &self.queries,
            &self.mixed,
            &self.parts,
            &self.stats,
            &self.hidden,
            &self.scores,
            &self.router_hidden,
        ];
        self.streams.iter().chain(&self.memories).chain(roles)
    }
}

//! The arithmetic of budgets: what a model takes on the CPU, from its plan alone.

use super::cache::Head;
use crate::bundle::Cost;
use crate::codec::Codec;
use crate::experts::{Layout, Sharing};
use crate::plan::{Plan, Routed, Step, Work};

/// Most tokens of one batch.
const CHUNK: usize = 512;
/// Fewest: below this, weights are read too often.
pub(super) const SMALLEST_CHUNK: usize = 32;

/// What a model and one conversation take under a budget, in bytes. What is left of the budget holds experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Dense weights and tokenizer.
    pub dense: u64,
    /// Caches of a conversation, at most.
    pub caches: u64,
    /// Working memory.
    pub working: u64,
    /// The experts of one token at one step: fewer do not work.
    pub least: u64,
}

impl Needs {
    /// What `plan` needs under `budget` when a conversation of `tokens` tokens is full.
    pub fn new(plan: &Plan, cost: &Cost, budget: u64, tokens: usize) -> Needs {
        let caches = (cache_bytes_per_token(plan, cache_codec(plan)) * tokens) as u64;
        let least = Layout::new(&cost.catalogue, 0, Sharing::Shared, u64::MAX).err().unwrap_or(0);
        let most = largest_batch(plan, cost.dense + cost.catalogue.bytes());
        let batch = batch(plan, budget, cost.dense + caches + least, most);
        Needs { dense: cost.dense, caches, working: (batch * working_bytes_per_token(plan)) as u64, least }
    }

    /// Bytes that are not for experts.
    pub fn fixed(&self) -> u64 {
        self.dense + self.caches + self.working
    }
}

/// Tokens of a batch under `budget`, of which `taken` is not to be had: large batches read experts seldom, but what they work with must
/// leave room for experts.
pub(super) fn batch(plan: &Plan, budget: u64, taken: u64, most: usize) -> usize {
    let room = budget.saturating_sub(taken).min(budget / 16);
    (usize::try_from(room).unwrap_or(usize::MAX) / working_bytes_per_token(plan)).clamp(SMALLEST_CHUNK, most)
}

/// Tokens of a batch when there is no budget: working memory stays a small part of the bundle's `bytes`.
pub(super) fn largest_batch(plan: &Plan, bytes: u64) -> usize {
    let affordable = usize::try_from(bytes).unwrap_or(usize::MAX) / 20 / working_bytes_per_token(plan);
    affordable.clamp(SMALLEST_CHUNK, CHUNK)
}

/// How keys and values are kept.
pub(super) fn cache_codec(plan: &Plan) -> Codec {
    let exact = plan.pools.iter().all(|p| p.codec == Codec::F32);
    if exact { Codec::F32 } else { Codec::F16 }
}

/// Cache bytes of one token of one conversation, windows aside.
pub(super) fn cache_bytes_per_token(plan: &Plan, codec: Codec) -> usize {
    let rows = plan.steps.iter().map(|s| match &s.work {
        Work::Attention(a) => {
            let state = &plan.states[a.state as usize];
            let routes = s.routed.as_ref().filter(|_| state.grouped).map_or(1, |r| routes(plan, r));
            routes * state.kv_heads as usize * Head::bytes_per_token(codec, state.head_dim as usize)
        }
        // A convolution keeps as many rows as it has taps, however long the conversation.
        Work::Convolution(_) | Work::Ffn(_) | Work::Identity => 0,
    });
    rows.sum()
}

/// Experts that one token may use.
fn routes(plan: &Plan, r: &Routed) -> usize {
    r.router.max_routes(plan.pools[r.pool as usize].experts()) as usize
}

/// Bytes that one token of a batch needs while it passes through the plan, roughly: streams, and the widest step.
pub(super) fn working_bytes_per_token(plan: &Plan) -> usize {
    let step = |s: &Step| {
        let width = plan.stream_width(s.from).unwrap_or(0) as usize;
        let routes = s.routed.as_ref().map_or(1, |r| routes(plan, r));
        let inner: usize = match &s.work {
            Work::Attention(a) => 3 * (a.heads * a.head_dim) as usize,
            Work::Convolution(_) => 3 * width,
            Work::Identity => 0,
            Work::Ffn(_) => {
                let pool = s.routed.as_ref().map(|r| &plan.pools[r.pool as usize]);
                pool.map_or(0, |p| p.expert.matrices(plan.width).iter().map(|m| m.1.min(m.2) as usize).sum())
            }
        };
        routes * (width + inner) * 2
    };
    let carried: u32 = plan.streams.iter().map(|s| s.width).chain(plan.memories.iter().copied()).sum();
    4 * (4 * plan.width as usize + carried as usize + plan.steps.iter().map(step).max().unwrap_or(0))
}

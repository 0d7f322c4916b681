//! What a run keeps for each state of the plan, and how a failed call is undone.

use std::ops::Range;

use super::cache::Head;
use crate::codec::Codec;
use crate::error::Result;
use crate::model::RunOptions;
use crate::plan::{Plan, Work};
use crate::snapshot::{Reader, Writer};

/// The cache of one state.
#[derive(Debug)]
pub(super) enum Cache {
    /// Key/value heads with a row for each token.
    Rows(Vec<Head>),
    /// For each expert of the step's pool, heads with a row for each token that chose it.
    Ragged(Vec<Ragged>),
    /// The newest rows of a convolution.
    Recent(Recent),
}

/// One expert's rows.
#[derive(Debug)]
pub(super) struct Ragged {
    pub(super) heads: Vec<Head>,
    /// Rows so far, and before the call under way.
    pub(super) rows: usize,
    before: usize,
}

/// Rows of the tokens just before a batch.
#[derive(Debug)]
pub(super) struct Recent {
    /// `[K - 1][D]`, oldest first; zeros before the first token.
    pub(super) rows: Vec<f32>,
    /// The same before the call under way.
    before: Vec<f32>,
}

impl Cache {
    /// Empty caches for every state. `codec`: of keys and values; `batch`: most tokens that are computed together.
    pub(super) fn all(plan: &Plan, codec: Codec, options: RunOptions, batch: usize) -> Vec<Cache> {
        let of_run = options.slide.then_some(options.context);
        let cache = |i: usize| {
            let state = &plan.states[i];
            let step = plan.steps.iter().find(|s| match &s.work {
                Work::Attention(a) => a.state as usize == i,
                Work::Convolution(c) => c.state as usize == i,
                Work::Ffn(_) | Work::Identity => false,
            });
            let heads = |window: Option<u32>| -> Vec<Head> {
                // A batch must not overwrite rows that its own first tokens see, nor a failed one rows that the next one sees.
                let window = window.map(|w| w as usize).into_iter().chain(of_run).min();
                let keep = window.map(|w| w.saturating_add(batch));
                (0..state.kv_heads).map(|_| Head::new(codec, state.head_dim as usize, keep)).collect()
            };
            match step.map(|s| (&s.work, &s.routed)) {
                Some((Work::Convolution(c), _)) => {
                    let rows = vec![0.0; (c.taps as usize - 1) * state.head_dim as usize];
                    Cache::Recent(Recent { before: rows.clone(), rows })
                }
                Some((Work::Attention(a), Some(r))) if state.grouped => {
                    let experts = plan.pools[r.pool as usize].experts();
                    Cache::Ragged((0..experts).map(|_| Ragged { heads: heads(a.window), rows: 0, before: 0 }).collect())
                }
                Some((Work::Attention(a), _)) => Cache::Rows(heads(a.window)),
                // Nobody will write it.
                _ => Cache::Rows(Vec::new()),
            }
        };
        (0..plan.states.len()).map(cache).collect()
    }

    /// Bytes that it takes, or will once there are `tokens` tokens. Ragged rows are counted as they come.
    pub(super) fn bytes(&self, tokens: usize) -> usize {
        match self {
            Cache::Rows(heads) => heads.iter().map(|h| h.bytes(tokens)).sum(),
            Cache::Ragged(experts) => experts.iter().flat_map(|e| &e.heads).map(Head::allocated).sum(),
            Cache::Recent(r) => size_of_val(&r.rows[..]) + size_of_val(&r.before[..]),
        }
    }

    /// Writes what the first `tokens` tokens left: all there are.
    pub(super) fn save(&mut self, tokens: usize, to: &mut Writer<'_>) -> Result<()> {
        match self {
            Cache::Rows(heads) => heads.iter_mut().try_for_each(|h| h.save(tokens, to)),
            Cache::Ragged(experts) => experts.iter_mut().try_for_each(|e| {
                to.number(e.rows as u64)?;
                e.heads.iter_mut().try_for_each(|h| h.save(e.rows, to))
            }),
            Cache::Recent(r) => to.bytes(bytemuck::cast_slice(&r.rows)),
        }
    }

    /// Reads what was written of so many tokens into an empty cache. `grow` is asked for the bytes of ragged rows; others were asked for.
    pub(super) fn restore(&mut self, tokens: usize, from: &mut Reader<'_>, grow: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        match self {
            Cache::Rows(heads) => heads.iter_mut().try_for_each(|h| h.restore(tokens, from)),
            Cache::Ragged(experts) => experts.iter_mut().try_for_each(|e| {
                // An expert is chosen by a token at most once.
                let rows = from.number(tokens as u64)? as usize;
                e.reserve(rows, grow)?;
                e.rows = rows;
                e.heads.iter_mut().try_for_each(|h| h.restore(rows, from))
            }),
            Cache::Recent(r) => from.fill(bytemuck::cast_slice_mut(&mut r.rows)),
        }
    }

    /// A call begins: what there is now is what [`undo`](Self::undo) goes back to.
    pub(super) fn begin(&mut self) {
        match self {
            Cache::Rows(_) => {}
            Cache::Ragged(experts) => experts.iter_mut().for_each(|e| e.before = e.rows),
            Cache::Recent(r) => r.before.copy_from_slice(&r.rows),
        }
    }

    /// The call has failed. What it wrote, at `positions`, is erased: it may not be finite, and numbers that are not would spoil even
    /// products with zero. (A cache that slides has lost its oldest rows if an earlier batch of this call succeeded; damaged weights do
    /// not let any conversation go on for long.)
    pub(super) fn undo(&mut self, positions: Range<usize>) {
        match self {
            Cache::Rows(heads) => heads.iter_mut().for_each(|h| h.erase(positions.clone())),
            Cache::Ragged(experts) => {
                for e in experts {
                    let rows = e.before..std::mem::replace(&mut e.rows, e.before);
                    e.heads.iter_mut().for_each(|h| h.erase(rows.clone()));
                }
            }
            Cache::Recent(r) => r.rows.copy_from_slice(&r.before),
        }
    }
}

impl Ragged {
    /// Makes room for `more` rows; `grow` is asked for the bytes first.
    pub(super) fn reserve(&mut self, more: usize, grow: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let rows = self.rows + more;
        let missing = self.heads.iter().map(|h| h.bytes(rows).saturating_sub(h.allocated())).sum::<usize>();
        if missing > 0 {
            grow(missing as u64)?;
            self.heads.iter_mut().for_each(|h| h.reserve(rows));
        }
        Ok(())
    }
}

impl Recent {
    /// Row `back` before the batch's first token: 1 is the newest. `[D]`.
    pub(super) fn row(&self, back: usize, width: usize) -> &[f32] {
        let end = self.rows.len() - (back - 1) * width;
        &self.rows[end - width..end]
    }

    /// Appends a row and forgets the oldest.
    pub(super) fn push(&mut self, row: &[f32]) {
        if let Some(at) = self.rows.len().checked_sub(row.len()) {
            self.rows.copy_within(row.len().., 0);
            self.rows[at..].copy_from_slice(row);
        }
    }
}

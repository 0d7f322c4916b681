//! Attention proper: queries against the rows of a cache, split where a single token has many to look at.

use hotset_shaders::{Kind, Rows, attend, merge};

use super::attention::Site;
use super::{Lower, NONE, all};
use crate::error::Result;
use crate::gpu::program::{Frame, Program};
use crate::gpu::scratch::{SPLITS, row};
use crate::plan::{AttentionKind, Part};

/// Keys of a block of `attend`: splits are whole blocks.
const BLOCK: u32 = 256;

impl Lower<'_> {
    pub(super) fn attend(&self, program: &mut Program, site: &Site<'_>) -> Result<()> {
        let (s, a, state, sets) = (self.scratch, site.a, site.state, site.sets);
        let cache = &self.caches[a.state as usize];
        let kind = match a.kind {
            AttentionKind::Softmax => Kind::Softmax,
            AttentionKind::StickBreaking => Kind::StickBreaking,
        };
        let window = cache.window;
        // A latent's heads each feed a product of their own, so they begin at whole groups.
        let (value_dim, out_head) = a.latent.as_ref().map_or((a.head_dim, a.head_dim), |l| (l.rank, row(l.rank)));
        let params = attend::Params {
            heads: a.heads,
            share: a.heads / state.kv_heads,
            head_dim: a.head_dim,
            head_stride: a.head_dim.div_ceil(4),
            value_dim,
            kv_heads: state.kv_heads,
            routes: sets,
            routed: (a.q == Part::Expert).into(),
            position: 0,
            capacity: cache.capacity,
            window,
            splits: 1,
            split: u32::MAX - BLOCK,
            scale: a.scale,
            out_stride: row(a.heads * out_head),
            out_head,
            sinks: self.elements(a.sinks.as_deref())?,
            entries: cache.groups.as_ref().map_or(0, |g| g.entries),
            lists: cache.groups.as_ref().filter(|g| !g.rings).map_or(NONE, |g| g.lists),
            least: if self.options.stick_epsilon > 0.0 { self.options.stick_epsilon.ln() } else { f32::MIN },
        };
        let (rows, index) = cache.groups.as_ref().map_or((Rows::Ring, &s.ids), |g| (Rows::Listed, &g.index));
        let values = if state.tied { &cache.keys } else { &cache.values };
        let buffers = |mixed| attend::Buffers {
            queries: all(&s.queries),
            keys: all(&cache.keys),
            values: all(values),
            vectors: all(self.weights.vectors()),
            index: all(index),
            mixed: all(mixed),
            stats: all(&s.stats),
        };
        let kernel = || attend::kernel(kind, self.device.lanes, rows);
        // Many queries keep the device busy by themselves; a single one is split.
        program.push(self.device, kernel(), buffers(&s.mixed), move |frame| {
            let params = attend::Params { position: frame.position, ..params };
            (splits(frame, window).0 == 1).then_some((params, [params.heads, frame.tokens * sets, 1]))
        })?;
        program.push(self.device, kernel(), buffers(&s.parts), move |frame| {
            let (splits, split) = splits(frame, window);
            let out_stride = params.heads * splits * value_dim;
            let params = attend::Params { position: frame.position, splits, split, out_stride, out_head: value_dim, ..params };
            (splits > 1).then_some((params, [params.heads * splits, sets, 1]))
        })?;
        let buffers = merge::Buffers { parts: all(&s.parts), stats: all(&s.stats), mixed: all(&s.mixed) };
        program.push(self.device, merge::kernel(kind), buffers, move |frame| {
            let (splits, _) = splits(frame, window);
            let params = merge::Params { heads: params.heads, head_dim: value_dim, splits, out_stride: params.out_stride, out_head };
            (splits > 1).then_some((params, [params.heads, sets, 1]))
        })
    }
}

/// Splits of the rows that a query may see, and rows of each.
fn splits(frame: &Frame, window: u32) -> (u32, u32) {
    let visible = (frame.position + frame.tokens).min(window);
    if frame.tokens > 1 || visible <= BLOCK {
        return (1, u32::MAX - BLOCK);
    }
    let split = visible.div_ceil(SPLITS).next_multiple_of(BLOCK);
    (visible.div_ceil(split), split)
}

//! From projections to queries and rows of the cache.

use hotset_shaders::{append, heads};

use super::attention::Site;
use super::{Lower, NONE, all, parts_of};
use crate::error::Result;
use crate::gpu::program::Program;
use crate::gpu::scratch::{routes, row};
use crate::plan::{Norm, Part};

impl Lower<'_> {
    /// Gives routes that have keys of their own a row each.
    pub(super) fn append(&self, program: &mut Program, site: &Site<'_>) -> Result<()> {
        let (cache, routes) = (&self.caches[site.a.state as usize], routes(self.plan, site.step, self.options.routing));
        let Some(groups) = &cache.groups else { return Ok(()) };
        let params = append::Params {
            routes: 0,
            first: 0,
            experts: groups.entries,
            capacity: cache.capacity,
            rings: groups.rings.into(),
            entries: groups.entries,
            lists: groups.lists,
        };
        let buffers = append::Buffers { ids: all(&self.scratch.ids), index: all(&groups.index) };
        program.push(self.device, append::kernel(), buffers, move |f| {
            Some((append::Params { routes: f.tokens * routes, first: f.position * routes, ..params }, [1, 1, 1]))
        })
    }

    /// Norms, clip, rotation; keys and values into the cache.
    pub(super) fn heads(&self, program: &mut Program, site: &Site<'_>) -> Result<()> {
        let (s, a, at, state) = (self.scratch, site.a, &site.at, site.state);
        let cache = &self.caches[a.state as usize];
        let (turns, pairs) = a.rotation.map_or((0, 0), |r| self.turns(r));
        let share = if cache.groups.is_some() { site.sets } else { 1 };
        let (rank, plain) = a.latent.as_ref().map_or((0, 0), |l| (l.rank, l.query));
        let input = a.k == Part::Input;
        // Where keys and values begin when they are not projected: at the input itself.
        let (other, other_stride) = match &cache.groups {
            Some(groups) => (&groups.index, 0),
            None if rank > 0 => (&s.hidden, row(a.heads * (plain + a.head_dim - rank))),
            None => (&s.a, site.stride * 4),
        };
        let params = heads::Params {
            heads: a.heads,
            kv_heads: state.kv_heads,
            head_dim: a.head_dim,
            routes: site.sets / share,
            q_stride: at.q_stride,
            k: at.k,
            v: at.v,
            kv_stride: at.kv_stride,
            kv_input: input.into(),
            other_stride,
            share,
            rows: cache.groups.as_ref().map_or(NONE, |g| g.entries),
            rank,
            plain,
            clip: a.clip.unwrap_or(f32::MAX),
            q_norm: self.head_norm(a.q_norm.as_ref(), a.heads, a.head_dim)?,
            k_norm: self.head_norm(a.k_norm.as_ref(), state.kv_heads, a.head_dim)?,
            turns,
            pairs,
            turned_first: a.rotated_first.into(),
            position: 0,
            capacity: cache.capacity,
        };
        let units = |full: u32, heads: u32| if full == 1 { 1 } else { heads };
        let values = if state.tied { 0 } else { state.kv_heads };
        let units = units(params.q_norm.full, a.heads) * params.routes + units(params.k_norm.full, state.kv_heads) + values;
        let buffers = heads::Buffers {
            vectors: all(self.weights.vectors()),
            turns: all(&s.turns),
            projected: all(&s.projected),
            other: all(other),
            queries: all(&s.queries),
            keys: all(&cache.keys),
            values: all(&cache.values),
        };
        program.push(self.device, heads::kernel(self.device.lanes), buffers, move |frame| {
            Some((heads::Params { position: frame.position, ..params }, [units, frame.tokens * share, 1]))
        })
    }

    /// Where the cosines and sines of rotation `r` begin, in pairs, and how many a token has.
    fn turns(&self, r: u32) -> (u32, u32) {
        let pairs = |r: &crate::plan::Rotation| u32::try_from(r.frequencies.len()).unwrap_or(0);
        let before: u32 = self.plan.rotations[..r as usize].iter().map(pairs).sum();
        (before * self.scratch.batch, pairs(&self.plan.rotations[r as usize]))
    }

    fn head_norm(&self, norm: Option<&Norm>, heads: u32, head_dim: u32) -> Result<heads::Norm> {
        let (kind, weight, bias, eps) = parts_of(norm);
        let full = weight.map_or(Ok(false), |w| Ok::<_, crate::Error>(self.weights.len(w)? == heads * head_dim))?;
        Ok(heads::Norm { kind, full: full.into(), weight: self.elements(weight)?, bias: self.elements(bias)?, eps })
    }
}

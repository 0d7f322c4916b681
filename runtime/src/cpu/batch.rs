//! Activations: stored like weights, sliced across features.
//!
//! A batch of `rows` vectors is `[groups][rows][32]`: a thread that owns some output features of all rows owns contiguous memory, a
//! product reads one group of every row side by side, and a single row is a plain vector. Rows are tokens, or routes of tokens.

use super::kernels::{Block, Group, Kernels, Values};
use crate::codec::{Codec, GROUP};

/// Groups that `width` features fill.
pub(super) fn groups_of(width: usize) -> usize {
    width.div_ceil(GROUP)
}

/// The forms in which the right-hand side of a product is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forms {
    /// For matrices of floats, and for those who look at single values.
    pub(super) floats: bool,
    /// For quantised matrices.
    pub(super) rounded: bool,
}

impl Forms {
    /// The form that matrices of `codec` want.
    pub(super) fn for_codec(codec: Codec) -> Forms {
        Forms { floats: !codec.has_scales(), rounded: codec.has_scales() }
    }

    pub(super) fn and(self, other: Forms) -> Forms {
        Forms { floats: self.floats || other.floats, rounded: self.rounded || other.rounded }
    }
}

/// Groups in one or both forms. The memory is kept when contents change.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Empty or `len` groups.
    pub(super) floats: Vec<Group>,
    /// Empty or `len` blocks.
    pub(super) blocks: Vec<Block>,
}

impl Batch {
    /// Makes room for `len` groups, contents unspecified.
    pub(super) fn reset(&mut self, len: usize, forms: Forms) {
        self.floats.resize(if forms.floats { len } else { 0 }, [0.0; GROUP]);
        self.blocks.resize(if forms.rounded { len } else { 0 }, Block::default());
    }

    /// All of it.
    pub(super) fn as_mut(&mut self) -> BatchMut<'_> {
        BatchMut { floats: &mut self.floats, blocks: &mut self.blocks }
    }

    /// `rows` vectors of `groups` groups that begin at group `at`.
    pub(super) fn view(&self, at: usize, groups: usize, rows: usize) -> View<'_> {
        let range = at..at + groups * rows;
        View { floats: self.floats.get(range.clone()).unwrap_or(&[]), blocks: self.blocks.get(range).unwrap_or(&[]), rows }
    }
}

/// A batch, or part of one, to be filled.
#[derive(Debug)]
pub(super) struct BatchMut<'a> {
    floats: &'a mut [Group],
    blocks: &'a mut [Block],
}

impl<'a> BatchMut<'a> {
    /// Only floats.
    pub(super) fn floats(floats: &'a mut [Group]) -> BatchMut<'a> {
        BatchMut { floats, blocks: &mut [] }
    }

    /// Takes the first `len` groups off.
    pub(super) fn split_off(&mut self, len: usize) -> BatchMut<'a> {
        fn first<'a, T>(all: &mut &'a mut [T], len: usize) -> &'a mut [T] {
            all.split_off_mut(..len.min(all.len())).unwrap_or_default()
        }
        BatchMut { floats: first(&mut self.floats, len), blocks: first(&mut self.blocks, len) }
    }

    /// Writes `x` from group `at` on, in the forms there are.
    pub(super) fn put(&mut self, kernels: &dyn Kernels, at: usize, x: &[Group]) {
        if !self.floats.is_empty() {
            self.floats[at..at + x.len()].copy_from_slice(x);
        }
        if !self.blocks.is_empty() {
            kernels.round(x, &mut self.blocks[at..at + x.len()]);
        }
    }

    /// Copies group `from` of `source` to group `to`, in the forms there are.
    pub(super) fn copy(&mut self, to: usize, source: &View<'_>, from: usize) {
        if !self.floats.is_empty() {
            self.floats[to] = source.floats[from];
        }
        if !self.blocks.is_empty() {
            self.blocks[to] = source.blocks[from];
        }
    }
}

/// A borrowed batch: `[groups][rows]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) floats: &'a [Group],
    blocks: &'a [Block],
    pub(super) rows: usize,
}

impl<'a> View<'a> {
    /// In the form that a matrix of `codec` wants.
    pub(super) fn values(&self, codec: Codec) -> Values<'a> {
        if codec.has_scales() { Values::Rounded(self.blocks) } else { Values::Float(self.floats) }
    }

    /// Whether the values are there in all these forms.
    pub(super) fn has(&self, forms: Forms) -> bool {
        !(forms.floats && self.floats.is_empty() || forms.rounded && self.blocks.is_empty())
    }
}

/// Plain values `[groups][rows][32]` of `width` features; what is beyond `width` is zero.
#[derive(Debug, Default)]
pub(super) struct Slab {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) data: Vec<Group>,
}

impl Slab {
    /// Makes room for `rows` vectors of `width`, all zero.
    pub(super) fn reset(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.data.clear();
        self.data.resize(groups_of(width) * rows, [0.0; GROUP]);
    }

    /// Writes a row.
    pub(super) fn set_row(&mut self, row: usize, values: &[f32]) {
        for (g, v) in values.chunks(GROUP).enumerate() {
            self.data[g * self.rows + row][..v.len()].copy_from_slice(v);
        }
    }

    /// Reads a row.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        for (g, v) in out.chunks_mut(GROUP).enumerate() {
            v.copy_from_slice(&self.data[g * self.rows + row][..v.len()]);
        }
    }
}

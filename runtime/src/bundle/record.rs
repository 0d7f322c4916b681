//! One expert's record: its matrices one after another, then padding to a whole number of blocks.

use super::BLOCK;
use crate::codec::{Codec, Layout, Matrix};
use crate::plan::{Expert, Pool, Role};

/// Where each matrix of a pool's records is.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordLayout {
    /// Role, layout, and offset in bytes from the start of the record.
    pub matrices: Vec<(Role, Layout, usize)>,
    /// Length of a record, a multiple of [`BLOCK`].
    pub bytes: usize,
}

impl RecordLayout {
    /// The layout of `expert`'s records in a model of `width`; `None` when a matrix cannot be stored.
    pub fn new(expert: &Expert, codec: Codec, width: u32) -> Option<RecordLayout> {
        let mut at = 0;
        let mut matrices = Vec::new();
        for (role, rows, cols) in expert.matrices(width) {
            let layout = Layout::new(codec, rows as usize, cols as usize)?;
            matrices.push((role, layout, at));
            at += layout.bytes();
        }
        Some(RecordLayout { matrices, bytes: at.next_multiple_of(BLOCK) })
    }

    /// The layout of `pool`'s records.
    pub fn of(pool: &Pool, width: u32) -> Option<RecordLayout> {
        RecordLayout::new(&pool.expert, pool.codec, width)
    }

    /// Layout and offset of the matrix with this role.
    pub fn find(&self, role: Role) -> Option<(Layout, usize)> {
        self.matrices.iter().find(|m| m.0 == role).map(|&(_, layout, at)| (layout, at))
    }
}

/// A record's bytes together with their layout.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    layout: &'a RecordLayout,
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Wraps a record; `None` when `bytes` is shorter than the layout.
    pub fn new(layout: &'a RecordLayout, bytes: &'a [u8]) -> Option<RecordView<'a>> {
        (bytes.len() >= layout.bytes).then_some(RecordView { layout, bytes })
    }

    /// The matrix with this role, if experts of this pool have it.
    pub fn matrix(&self, role: Role) -> Option<Matrix<'a>> {
        let (layout, at) = self.layout.find(role)?;
        Matrix::new(layout, &self.bytes[at..at + layout.bytes()])
    }
}

//! One expert's record: its matrices one after another, then their biases, then padding to a whole number of blocks.

use super::BLOCK;
use crate::codec::{Codec, Layout, Matrix, PANEL};
use crate::plan::{Expert, Pool, Role};

/// Where each matrix of a pool's records is.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordLayout {
    /// Role, layout, and offset in bytes from the start of the record.
    pub matrices: Vec<(Role, Layout, usize)>,
    /// For each matrix, where the bias of its rows is: f32, padded to whole panels. Empty when the experts have none.
    pub biases: Vec<usize>,
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
        let mut biases = Vec::new();
        if expert.has_biases() {
            for (_, layout, _) in &matrices {
                biases.push(at);
                at += layout.panels() * PANEL * size_of::<f32>();
            }
        }
        Some(RecordLayout { matrices, biases, bytes: at.next_multiple_of(BLOCK) })
    }

    /// The layout of `pool`'s records.
    pub fn of(pool: &Pool, width: u32) -> Option<RecordLayout> {
        RecordLayout::new(&pool.expert, pool.codec, width)
    }

    /// Layout and offset of the matrix with this role.
    pub fn find(&self, role: Role) -> Option<(Layout, usize)> {
        self.matrices.iter().find(|m| m.0 == role).map(|&(_, layout, at)| (layout, at))
    }

    /// Offset of the bias of the matrix with this role, if it has one.
    pub fn find_bias(&self, role: Role) -> Option<usize> {
        self.matrices.iter().position(|m| m.0 == role).and_then(|i| self.biases.get(i).copied())
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

    /// The bias of the matrix with this role, one value for each row, if experts of this pool have it.
    pub fn bias(&self, role: Role) -> Option<&'a [f32]> {
        let ((layout, _), at) = (self.layout.find(role)?, self.layout.find_bias(role)?);
        bytemuck::try_cast_slice(&self.bytes[at..at + layout.rows * size_of::<f32>()]).ok()
    }
}

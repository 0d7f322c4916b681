//! A part of a checkpoint tensor, as data.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Tensor, View};
use crate::failure::{Failure, Result};

/// Part of a checkpoint tensor, seen as a matrix; a single axis is seen as one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) tensor: String,
    /// Part along the first axis: the expert.
    pub(crate) index: Option<usize>,
    /// Rows and columns of what is left, as stored; absent means all.
    pub(crate) rows: Option<Every>,
    pub(crate) columns: Option<Every>,
    /// Whether the tensor is stored inputs first.
    pub(crate) transposed: bool,
}

/// Some indices of an axis: of `range` the first and then every `step`-th.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Every {
    pub(crate) range: Range<usize>,
    pub(crate) step: usize,
}

impl Every {
    fn new(range: Range<u32>, step: usize) -> Every {
        Every { range: range.start as usize..range.end as usize, step }
    }
}

impl Slice {
    /// The whole tensor.
    pub(crate) fn of(tensor: impl Into<String>) -> Slice {
        Slice { tensor: tensor.into(), index: None, rows: None, columns: None, transposed: false }
    }

    /// One expert of a tensor that holds all of them.
    pub(crate) fn expert(&self, index: usize) -> Slice {
        Slice { index: Some(index), ..self.clone() }
    }

    /// Some rows, as stored.
    pub(crate) fn rows(&self, rows: Range<u32>) -> Slice {
        self.rows_by(rows, 1)
    }

    /// Of some rows, as stored, the first and then every `step`-th.
    pub(crate) fn rows_by(&self, rows: Range<u32>, step: usize) -> Slice {
        Slice { rows: Some(Every::new(rows, step)), ..self.clone() }
    }

    /// Some columns, as stored; of a vector, some values.
    pub(crate) fn columns(&self, columns: Range<u32>) -> Slice {
        self.columns_by(columns, 1)
    }

    /// Of some columns, as stored, the first and then every `step`-th.
    pub(crate) fn columns_by(&self, columns: Range<u32>, step: usize) -> Slice {
        Slice { columns: Some(Every::new(columns, step)), ..self.clone() }
    }

    /// Rows for columns.
    pub(crate) fn transposed(&self) -> Slice {
        Slice { transposed: true, ..self.clone() }
    }

    /// The same part with rows and columns as stored.
    pub(crate) fn as_stored(&self) -> Slice {
        Slice { transposed: false, ..self.clone() }
    }

    /// The part of `tensor` that this names; `None` when the tensor has no such part.
    pub(crate) fn view(&self, tensor: &Tensor) -> Option<View> {
        let view = View::new(tensor, self.index)?;
        let view = self.rows.clone().map_or(Some(view), |r| view.rows_by(r.range, r.step))?;
        let turned = view.transpose();
        let turned = self.columns.clone().map_or(Some(turned), |c| turned.rows_by(c.range, c.step))?;
        Some(if self.transposed { turned } else { turned.transpose() })
    }

    /// Rows and columns.
    pub(crate) fn shape(&self, checkpoint: &Checkpoint) -> Result<(usize, usize)> {
        let view = checkpoint.tensors().get(&self.tensor).and_then(|t| self.view(t));
        view.map(|v| (v.rows, v.cols)).ok_or_else(|| self.absent())
    }

    /// Reads rows `rows` of the matrix, row-major, to `out`.
    pub(crate) fn read(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = checkpoint.tensors().get(&self.tensor);
        let view = tensor.and_then(|t| self.view(t)?.rows(rows)).ok_or_else(|| self.absent())?;
        checkpoint.read(&self.tensor, view, out)
    }

    /// Reads rows `rows` of a matrix of bytes, row-major, to `out`.
    pub(crate) fn read_bytes(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let tensor = checkpoint.tensors().get(&self.tensor);
        let view = tensor.and_then(|t| self.view(t)?.rows(rows)).ok_or_else(|| self.absent())?;
        checkpoint.read_bytes(&self.tensor, view, out)
    }

    fn absent(&self) -> Failure {
        Failure::new(format!("the checkpoint's tensor {:?} has no such part", self.tensor))
    }
}

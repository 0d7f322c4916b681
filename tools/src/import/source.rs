//! How a stored matrix or vector is assembled from checkpoint tensors, as data.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Tensor, View};
use crate::failure::{Failure, Result};

/// Part of a checkpoint tensor, seen as a matrix; a single axis is seen as one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) tensor: String,
    /// Part along the first of three axes: the expert.
    index: Option<usize>,
    /// Rows of what is left; absent means all.
    rows: Option<Range<usize>>,
    /// Whether the tensor is stored inputs first.
    transposed: bool,
}

impl Slice {
    /// The whole tensor.
    pub(crate) fn of(tensor: impl Into<String>) -> Slice {
        Slice { tensor: tensor.into(), index: None, rows: None, transposed: false }
    }

    /// One expert of a tensor that holds all of them.
    pub(crate) fn expert(&self, index: usize) -> Slice {
        Slice { index: Some(index), ..self.clone() }
    }

    /// Some rows, as stored.
    pub(crate) fn rows(&self, rows: Range<u32>) -> Slice {
        Slice { rows: Some(rows.start as usize..rows.end as usize), ..self.clone() }
    }

    /// Rows for columns.
    pub(crate) fn transposed(&self) -> Slice {
        Slice { transposed: true, ..self.clone() }
    }

    /// The part of `tensor` that this names; `None` when the tensor has no such part.
    pub(crate) fn view(&self, tensor: &Tensor) -> Option<View> {
        let view = View::new(tensor, self.index)?;
        let view = self.rows.clone().map_or(Some(view), |r| view.rows(r))?;
        Some(if self.transposed { view.transpose() } else { view })
    }

    /// Reads rows `rows` of the matrix, row-major, to `out`.
    pub(crate) fn read(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = checkpoint.tensors().get(&self.tensor);
        let view = tensor.and_then(|t| self.view(t)?.rows(rows));
        let view = view.ok_or_else(|| Failure::new(format!("the checkpoint's tensor {:?} has no such part", self.tensor)))?;
        checkpoint.read(&self.tensor, view, out)
    }
}

/// Where the values of a dense matrix or vector come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// From a tensor as it is.
    Slice(Slice),
    /// Rows scaled to unit length, times the exponential of a tensor's only value.
    Directions {
        /// The rows.
        of: Slice,
        /// One value.
        log_scale: Slice,
    },
}

impl Source {
    /// The tensor that holds the values, for messages.
    pub(crate) fn tensor(&self) -> &str {
        match self {
            Source::Slice(slice) | Source::Directions { of: slice, .. } => &slice.tensor,
        }
    }

    /// Reads rows `rows` of a matrix with `cols` columns (a vector has one row) to `out`, row-major.
    pub(crate) fn read(&self, checkpoint: &Checkpoint, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Source::Slice(slice) => slice.read(checkpoint, rows, out),
            Source::Directions { of, log_scale } => {
                let mut scale = [0.0];
                log_scale.read(checkpoint, 0..1, &mut scale)?;
                of.read(checkpoint, rows, out)?;
                for row in out.chunks_exact_mut(cols) {
                    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
                    row.iter_mut().for_each(|v| *v *= scale[0].exp() / length);
                }
                Ok(())
            }
        }
    }
}

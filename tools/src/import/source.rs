//! How a stored matrix or vector is made from checkpoint tensors, as data.
//!
//! Everything is evaluated a few rows at a time, so that the largest matrices stream. A vector is one row.

use std::ops::Range;

use hotset::codec::{E2M1, GROUP, e8m0};

use super::slice::Slice;
use crate::checkpoint::Checkpoint;
use crate::failure::{Failure, Result};

/// Values of a factor that are read at once.
const CHUNK: usize = 1 << 20;

/// Where the values of a matrix or vector come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// From a tensor as it is.
    Slice(Slice),
    /// The same everywhere.
    Constant(f32),
    /// Matrices one below the other: how many rows of each.
    Stack(Vec<(u32, Source)>),
    /// Vectors one behind the other: how many values of each.
    Chain(Vec<(u32, Source)>),
    /// A matrix, and zeros in the columns that it lacks.
    Widened(Slice),
    /// Every value times a number.
    Scaled(Box<Source>, f32),
    /// Each column times its value of a vector: a norm's gain, folded into the matrix behind it.
    Columns {
        /// The matrix.
        of: Slice,
        /// One value for each column.
        gain: Slice,
    },
    /// The vector `matrix · of + plus`: a norm's shift, folded into the bias behind it.
    Image {
        /// As many columns as `of` has values.
        matrix: Slice,
        /// A vector.
        of: Slice,
        /// One value for each row.
        plus: Option<Slice>,
    },
    /// The matrix `left · right`: two linear layers in a row.
    Product {
        /// As many columns as `right` has rows.
        left: Slice,
        /// As many columns as the result.
        right: Slice,
    },
    /// Microscaling blocks of 32 values in a row: 16 bytes, in each the value with the even index below, and a byte for their scale.
    Mxfp4 {
        /// Bytes, half as many columns as values.
        blocks: Slice,
        /// Bytes, a column for each block.
        scales: Slice,
    },
    /// Rows scaled to unit length, times the exponential of a tensor's only value.
    Directions {
        /// The rows.
        of: Slice,
        /// One value.
        log_scale: Slice,
    },
}

impl From<Slice> for Source {
    fn from(slice: Slice) -> Source {
        Source::Slice(slice)
    }
}

impl Source {
    /// The tensor that holds the values, or the first of several, for messages.
    pub(crate) fn tensor(&self) -> &str {
        match self {
            Source::Slice(slice) | Source::Widened(slice) | Source::Directions { of: slice, .. } | Source::Mxfp4 { blocks: slice, .. } => {
                &slice.tensor
            }
            Source::Columns { of: slice, .. } | Source::Image { matrix: slice, .. } | Source::Product { left: slice, .. } => &slice.tensor,
            Source::Constant(_) => "a constant",
            Source::Stack(parts) | Source::Chain(parts) => parts.first().map_or("nothing", |(_, s)| s.tensor()),
            Source::Scaled(of, _) => of.tensor(),
        }
    }

    /// Adds the parts of checkpoint tensors that the values are made of.
    pub(crate) fn slices<'a>(&'a self, found: &mut Vec<&'a Slice>) {
        match self {
            Source::Slice(slice) | Source::Widened(slice) => found.push(slice),
            Source::Constant(_) => {}
            Source::Stack(parts) | Source::Chain(parts) => parts.iter().for_each(|(_, s)| s.slices(found)),
            Source::Scaled(of, _) => of.slices(found),
            Source::Columns { of, gain } => found.extend([of, gain]),
            Source::Image { matrix, of, plus } => found.extend([matrix, of].into_iter().chain(plus)),
            Source::Product { left, right } => found.extend([left, right]),
            Source::Mxfp4 { blocks, scales } => found.extend([blocks, scales]),
            Source::Directions { of, log_scale } => found.extend([of, log_scale]),
        }
    }

    /// A few of the values, quick to read, by which most matrices with `cols` columns can be told apart.
    pub(crate) fn sample(&self, checkpoint: &Checkpoint, cols: usize) -> Result<Vec<f32>> {
        // What is stored the other way round has its neighbours in a column.
        let (source, cols) = match self {
            Source::Slice(slice) => {
                let stored = slice.as_stored();
                let cols = stored.shape(checkpoint)?.1;
                (&Source::Slice(stored), cols)
            }
            other => (other, cols),
        };
        let mut values = vec![0.0; cols];
        source.read(checkpoint, 0..1, cols, &mut values)?;
        Ok(values)
    }

    /// Reads rows `rows` of a matrix with `cols` columns (a vector has one row) to `out`, row-major.
    pub(crate) fn read(&self, checkpoint: &Checkpoint, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Source::Slice(slice) => slice.read(checkpoint, rows, out),
            Source::Constant(value) => {
                out.fill(*value);
                Ok(())
            }
            Source::Stack(parts) => {
                let (mut start, mut rest) = (0, out);
                for (n, part) in parts {
                    let end = start + *n as usize;
                    let inside = rows.start.max(start)..rows.end.min(end);
                    if !inside.is_empty() {
                        let (now, later) = rest.split_at_mut(inside.len() * cols);
                        part.read(checkpoint, inside.start - start..inside.end - start, cols, now)?;
                        rest = later;
                    }
                    start = end;
                }
                Ok(())
            }
            Source::Chain(parts) => {
                let mut rest = out;
                for (n, part) in parts {
                    let (now, later) = rest.split_at_mut(*n as usize);
                    part.read(checkpoint, 0..1, now.len(), now)?;
                    rest = later;
                }
                Ok(())
            }
            Source::Widened(slice) => {
                let (_, own) = slice.shape(checkpoint)?;
                let mut narrow = vec![0.0; rows.len() * own];
                slice.read(checkpoint, rows, &mut narrow)?;
                out.fill(0.0);
                out.chunks_exact_mut(cols).zip(narrow.chunks_exact(own)).for_each(|(wide, row)| wide[..own].copy_from_slice(row));
                Ok(())
            }
            Source::Scaled(of, by) => {
                of.read(checkpoint, rows, cols, out)?;
                out.iter_mut().for_each(|v| *v *= by);
                Ok(())
            }
            Source::Columns { of, gain } => {
                of.read(checkpoint, rows, out)?;
                let gain = vector(checkpoint, gain)?;
                out.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(&gain).for_each(|(v, g)| *v *= g));
                Ok(())
            }
            Source::Image { matrix, of, plus } => image(checkpoint, matrix, of, plus.as_ref(), out),
            Source::Product { left, right } => product(checkpoint, (left, right), rows, cols, out),
            Source::Mxfp4 { blocks, scales } => mxfp4(checkpoint, (blocks, scales), rows, cols, out),
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

fn mxfp4(checkpoint: &Checkpoint, (blocks, scales): (&Slice, &Slice), rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
    let (mut nibbles, mut exponents) = (vec![0; out.len() / 2], vec![0; rows.len() * (cols / GROUP)]);
    blocks.read_bytes(checkpoint, rows.clone(), &mut nibbles)?;
    scales.read_bytes(checkpoint, rows, &mut exponents)?;
    for ((out, bytes), exponent) in out.chunks_exact_mut(GROUP).zip(nibbles.chunks_exact(GROUP / 2)).zip(exponents) {
        let scale = e8m0(exponent);
        for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
            pair[0] = E2M1[usize::from(byte & 15)] * scale;
            pair[1] = E2M1[usize::from(byte >> 4)] * scale;
        }
    }
    match out.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(Failure::new(format!("tensor {:?} holds {v}; the checkpoint is damaged", blocks.tensor))),
    }
}

fn vector(checkpoint: &Checkpoint, slice: &Slice) -> Result<Vec<f32>> {
    let mut values = vec![0.0; slice.shape(checkpoint)?.1];
    slice.read(checkpoint, 0..1, &mut values)?;
    Ok(values)
}

/// `out = matrix · of + plus`.
fn image(checkpoint: &Checkpoint, matrix: &Slice, of: &Slice, plus: Option<&Slice>, out: &mut [f32]) -> Result<()> {
    let x = vector(checkpoint, of)?;
    match plus {
        Some(plus) => plus.read(checkpoint, 0..1, out)?,
        None => out.fill(0.0),
    }
    let at_once = (CHUNK / x.len()).max(1);
    let mut block = Vec::new();
    for (i, out) in out.chunks_mut(at_once).enumerate() {
        block.resize(out.len() * x.len(), 0.0);
        matrix.read(checkpoint, i * at_once..i * at_once + out.len(), &mut block)?;
        for (y, row) in out.iter_mut().zip(block.chunks_exact(x.len())) {
            let sum: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            *y = (f64::from(*y) + sum) as f32;
        }
    }
    finite(out, matrix)
}

/// Rows `rows` of `left · right`, `cols` wide.
fn product(checkpoint: &Checkpoint, (left, right): (&Slice, &Slice), rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
    let (inner, _) = right.shape(checkpoint)?;
    let mut a = vec![0.0; rows.len() * inner];
    left.read(checkpoint, rows, &mut a)?;
    let mut sums = vec![0.0f64; out.len()];
    let at_once = (CHUNK / cols).max(1);
    let mut block = Vec::new();
    for first in (0..inner).step_by(at_once) {
        let n = at_once.min(inner - first);
        block.resize(n * cols, 0.0);
        right.read(checkpoint, first..first + n, &mut block)?;
        for (sums, a) in sums.chunks_exact_mut(cols).zip(a.chunks_exact(inner)) {
            for (a, row) in a[first..first + n].iter().zip(block.chunks_exact(cols)) {
                sums.iter_mut().zip(row).for_each(|(s, b)| *s += f64::from(*a) * f64::from(*b));
            }
        }
    }
    out.iter_mut().zip(sums).for_each(|(y, s)| *y = s as f32);
    finite(out, left)
}

/// Finite factors may still have a result beyond f32.
fn finite(values: &[f32], of: &Slice) -> Result<()> {
    match values.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(Failure::new(format!("a product with tensor {:?} is {v}; the checkpoint is damaged", of.tensor))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    /// A checkpoint with the tensors `a` `[4, 3]` = 0..12, `b` `[3, 2]` = 0..6 and `v` `[3]` = 1, 10, 100.
    fn checkpoint() -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |n: u8| (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect::<Vec<u8>>();
        let v: Vec<u8> = [1f32, 10.0, 100.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let (a, b) = (bytes(12), bytes(6));
        let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
        let tensors = [("a", view(&[4, 3], &a)), ("b", view(&[3, 2], &b)), ("v", view(&[3], &v))];
        safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        Checkpoint::open(folder.path()).unwrap()
    }

    /// The whole matrix, having checked that every range of its rows is the same read alone.
    fn matrix(source: &Source, rows: usize, cols: usize) -> Vec<f32> {
        let checkpoint = checkpoint();
        let read = |range: Range<usize>| {
            let mut out = vec![f32::NAN; range.len() * cols];
            source.read(&checkpoint, range, cols, &mut out).unwrap();
            out
        };
        let whole = read(0..rows);
        for start in 0..rows {
            for end in start + 1..=rows {
                assert_eq!(read(start..end), whole[start * cols..end * cols], "rows {start}..{end} of {source:?}");
            }
        }
        whole
    }

    fn slice(tensor: &str) -> Slice {
        Slice::of(tensor)
    }

    #[test]
    fn stacks_take_rows_from_anywhere() {
        let parts =
            vec![(2, slice("a").rows_by(1..4, 2).into()), (1, Source::Constant(7.0)), (0, Source::Constant(1.0)), (1, slice("v").into())];
        assert_eq!(matrix(&Source::Stack(parts), 4, 3), [3.0, 4.0, 5.0, 9.0, 10.0, 11.0, 7.0, 7.0, 7.0, 1.0, 10.0, 100.0]);
        let parts = vec![(1, Source::Constant(2.0)), (2, slice("v").columns(1..3).into()), (2, slice("v").columns_by(0..3, 2).into())];
        assert_eq!(matrix(&Source::Chain(parts), 1, 5), [2.0, 10.0, 100.0, 1.0, 100.0]);
    }

    #[test]
    fn missing_columns_are_zero() {
        assert_eq!(matrix(&Source::Widened(slice("b")), 3, 4), [0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0, 4.0, 5.0, 0.0, 0.0]);
    }

    #[test]
    fn columns_are_chosen_before_a_matrix_is_turned() {
        let turned = Source::Slice(slice("a").columns(1..3).rows(0..2).transposed());
        assert_eq!(matrix(&turned, 2, 2), [1.0, 4.0, 2.0, 5.0]);
        assert_eq!(matrix(&Source::Scaled(Box::new(turned), -0.5), 2, 2), [-0.5, -2.0, -1.0, -2.5]);
    }

    #[test]
    fn a_norm_folds_into_the_layer_behind_it() {
        let columns = Source::Columns { of: slice("b").transposed(), gain: slice("v") };
        assert_eq!(matrix(&columns, 2, 3), [0.0, 20.0, 400.0, 1.0, 30.0, 500.0]);
        let image = |plus| Source::Image { matrix: slice("b").transposed(), of: slice("v"), plus };
        assert_eq!(matrix(&image(None), 1, 2), [420.0, 531.0]);
        assert_eq!(matrix(&image(Some(slice("v").columns(1..3))), 1, 2), [430.0, 631.0]);
    }

    #[test]
    fn products_are_of_matrices() {
        let product = Source::Product { left: slice("a"), right: slice("b") };
        assert_eq!(matrix(&product, 4, 2), [10.0, 13.0, 28.0, 40.0, 46.0, 67.0, 64.0, 94.0]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut out = [0.0; 3];
        for absent in [slice("a").rows(3..5), slice("a").columns(2..4), slice("c")] {
            let failure = Source::Slice(absent).read(&checkpoint(), 0..1, 3, &mut out).expect_err("refused");
            assert!(failure.to_string().contains("no such part"), "{failure}");
        }
    }
}

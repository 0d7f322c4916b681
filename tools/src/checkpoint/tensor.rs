//! Where a checkpoint tensor lies in its file, and how its values become f32.

use std::ops::Range;

use half::{bf16, f16};
use safetensors::Dtype;

/// A tensor in a mapped file. Every element that shape and strides can name lies within the file: whoever makes one checks that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Elements from one index to the next, for each axis.
    pub(crate) strides: Vec<usize>,
    /// Which of the checkpoint's files.
    pub(crate) file: usize,
    /// First element, in bytes from the start of the file.
    pub(crate) start: usize,
}

impl Tensor {
    /// One that no file holds yet. `None` when it has more elements than memory can address.
    pub(crate) fn unwritten(shape: Vec<usize>) -> Option<Tensor> {
        Some(Tensor { dtype: Dtype::F32, strides: row_major(&shape)?, shape, file: 0, start: 0 })
    }

    /// Whether both are the same bytes read the same way: tied weights of a PyTorch checkpoint.
    pub(crate) fn is(&self, other: &Tensor) -> bool {
        self == other
    }

    /// The bytes of its elements, row-major, whatever they are. `file`: the one it is in.
    pub(super) fn bytes(&self, file: &[u8]) -> Vec<u8> {
        let count: usize = self.shape.iter().product();
        let bits = self.dtype.bitsize();
        if row_major(&self.shape).as_ref() == Some(&self.strides) {
            return file[self.start..self.start + count * bits / 8].to_vec();
        }
        let place = |element: usize| {
            let axes = self.shape.iter().zip(&self.strides).rev();
            axes.fold((element, 0), |(rest, at), (len, stride)| (rest / len, at + rest % len * stride)).1
        };
        (0..count).flat_map(|n| &file[self.start + place(n) * bits / 8..][..bits / 8]).copied().collect()
    }
}

/// Strides of a row-major tensor; `None` when it has more elements than memory can address.
pub(super) fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = shape[axis].checked_mul(strides[axis])?;
    }
    shape.first().map_or(Some(1), |n| n.checked_mul(strides[0]))?;
    Some(strides)
}

/// A matrix within a tensor; strides in elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_stride: usize,
    col_stride: usize,
    /// Elements from the tensor's first.
    offset: usize,
}

impl View {
    /// The whole tensor, or its part `index` along the first axis: a matrix, or one row when a single axis is left. The last two of three
    /// axes are seen as one if they lie in memory that way. `None` when more are left, or there is no such part.
    pub(crate) fn new(tensor: &Tensor, index: Option<usize>) -> Option<View> {
        let (mut shape, mut strides, mut offset) = (&tensor.shape[..], &tensor.strides[..], 0);
        if let Some(i) = index {
            if i >= *shape.first()? {
                return None;
            }
            offset = i * strides[0];
            (shape, strides) = (&shape[1..], &strides[1..]);
        }
        match (shape, strides) {
            (&[cols], &[col_stride]) => Some(View { rows: 1, cols, row_stride: 0, col_stride, offset }),
            (&[rows, cols], &[row_stride, col_stride]) => Some(View { rows, cols, row_stride, col_stride, offset }),
            (&[rows, groups, size], &[row_stride, group_stride, col_stride]) if groups == 1 || group_stride == size * col_stride => {
                Some(View { rows, cols: groups.checked_mul(size)?, row_stride, col_stride, offset })
            }
            _ => None,
        }
    }

    /// Some of its rows.
    pub(crate) fn rows(self, range: Range<usize>) -> Option<View> {
        self.rows_by(range, 1)
    }

    /// Of some of its rows the first and then every `step`-th.
    pub(crate) fn rows_by(self, range: Range<usize>, step: usize) -> Option<View> {
        let inside = step > 0 && range.start < range.end && range.end <= self.rows;
        let offset = self.offset + range.start * self.row_stride;
        inside.then(|| View { rows: range.len().div_ceil(step), row_stride: self.row_stride * step, offset, ..self })
    }

    /// Rows for columns.
    pub(crate) fn transpose(self) -> View {
        View { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Writes the matrix, row-major, to `out` (`rows · cols` values). `None` when the tensor does not hold floats.
    pub(crate) fn read(&self, tensor: &Tensor, file: &[u8], out: &mut [f32]) -> Option<()> {
        let bytes = &file[tensor.start..];
        match tensor.dtype {
            Dtype::F32 => self.gather(bytes, out, f32::from_le_bytes),
            Dtype::F16 => self.gather(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.gather(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => self.gather(bytes, out, |b| f64::from_le_bytes(b) as f32),
            _ => return None,
        }
        Some(())
    }

    /// Writes the bytes of the matrix, row-major, to `out`. `None` when the tensor does not hold bytes.
    pub(crate) fn read_bytes(&self, tensor: &Tensor, file: &[u8], out: &mut [u8]) -> Option<()> {
        (tensor.dtype == Dtype::U8).then(|| self.gather(&file[tensor.start..], out, |[b]| b))
    }

    fn gather<T, const N: usize>(&self, bytes: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
        let element = |at: usize| {
            let mut b = [0; N];
            b.copy_from_slice(&bytes[at * N..][..N]);
            convert(b)
        };
        if self.col_stride <= self.row_stride || self.rows == 1 {
            for (r, row) in out.chunks_exact_mut(self.cols).enumerate() {
                let at = self.offset + r * self.row_stride;
                row.iter_mut().enumerate().for_each(|(c, y)| *y = element(at + c * self.col_stride));
            }
        } else {
            // Stored the other way round: walk memory in its own order.
            for c in 0..self.cols {
                let at = self.offset + c * self.col_stride;
                (0..self.rows).for_each(|r| out[r * self.cols + c] = element(at + r * self.row_stride));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> (Tensor, Vec<u8>) {
        let n: usize = shape.iter().product();
        let bytes = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let strides = row_major(shape).expect("small");
        (Tensor { dtype: Dtype::F32, shape: shape.to_vec(), strides, file: 0, start: 0 }, bytes)
    }

    fn read(view: View, tensor: &Tensor, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; view.rows * view.cols];
        view.read(tensor, bytes, &mut out).expect("floats");
        out
    }

    #[test]
    fn parts_rows_and_transposes() {
        let (t, bytes) = tensor(&[2, 3, 4]);
        let part = View::new(&t, Some(1)).expect("exists");
        assert_eq!(read(part, &t, &bytes), (12..24).map(|i| i as f32).collect::<Vec<_>>());
        let rows = part.rows(1..3).expect("inside");
        assert_eq!(read(rows, &t, &bytes), (16..24).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(read(rows.transpose(), &t, &bytes), [16.0, 20.0, 17.0, 21.0, 18.0, 22.0, 19.0, 23.0]);
        assert_eq!(read(part.transpose().rows(1..2).expect("inside"), &t, &bytes), [13.0, 17.0, 21.0]);
        let odd = part.transpose().rows_by(1..4, 2).expect("inside");
        assert_eq!(read(odd, &t, &bytes), [13.0, 17.0, 21.0, 15.0, 19.0, 23.0]);
    }

    #[test]
    fn the_last_two_of_three_axes_are_one() {
        let (t, bytes) = tensor(&[2, 3, 4]);
        let view = View::new(&t, None).expect("contiguous");
        assert_eq!((view.rows, view.cols), (2, 12));
        assert_eq!(read(view, &t, &bytes), (0..24).map(|i| i as f32).collect::<Vec<_>>());
        let apart = Tensor { strides: vec![12, 1, 3], ..t };
        assert_eq!(View::new(&apart, None), None, "not in memory");
    }

    #[test]
    fn bytes_are_row_major() {
        let (t, bytes) = tensor(&[2, 3]);
        assert_eq!(t.bytes(&bytes), bytes);
        let turned = Tensor { shape: vec![3, 2], strides: vec![1, 3], ..t };
        let values: Vec<f32> = turned.bytes(&bytes).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let (t, _) = tensor(&[2, 3, 4]);
        let (four, _) = tensor(&[2, 3, 2, 2]);
        assert_eq!(View::new(&four, None), None, "four axes");
        assert_eq!(View::new(&t, Some(2)), None, "no such part");
        assert_eq!(View::new(&t, Some(0)).and_then(|v| v.rows(2..4)), None, "too many rows");
        assert_eq!(row_major(&[usize::MAX, 2]), None);
    }

    #[test]
    fn every_float_format() {
        for (dtype, bytes) in [
            (Dtype::F16, f16::from_f32(-1.5).to_le_bytes().to_vec()),
            (Dtype::BF16, bf16::from_f32(-1.5).to_le_bytes().to_vec()),
            (Dtype::F64, (-1.5f64).to_le_bytes().to_vec()),
        ] {
            let t = Tensor { dtype, shape: vec![1], strides: vec![1], file: 0, start: 0 };
            assert_eq!(read(View::new(&t, None).expect("a row"), &t, &bytes), [-1.5]);
        }
        let t = Tensor { dtype: Dtype::I8, shape: vec![1], strides: vec![1], file: 0, start: 0 };
        let view = View::new(&t, None).expect("a row");
        assert_eq!(view.read(&t, &[1], &mut [0.0]), None, "whole numbers are no weights");
        assert_eq!(view.read_bytes(&t, &[1], &mut [0]), None, "signed");
        let t = Tensor { dtype: Dtype::U8, ..t };
        let mut byte = [0];
        assert_eq!((view.read_bytes(&t, &[200], &mut byte), byte), (Some(()), [200]));
    }
}

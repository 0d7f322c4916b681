//! Matrix products into a part of a buffer, which `candle` has no operation for.

use gemm::{Parallelism, gemm};

/// A matrix in a slice; strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The matrix `[rows, cols]` that begins `at` elements into `values`.
    pub(super) fn new(values: &'a [f32], at: usize, (rows, cols): (usize, usize), (row_stride, col_stride): (usize, usize)) -> Matrix<'a> {
        let last = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1) * col_stride;
        let values = if rows == 0 || cols == 0 { &[] } else { &values[at..=at + last] };
        Matrix { values, rows, cols, row_stride, col_stride }
    }

    /// Rows for columns.
    pub(super) fn t(self) -> Matrix<'a> {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Writes `self · other` to `out`, row-major. An empty sum is zero.
    pub(super) fn times(self, other: Matrix<'_>, out: &mut [f32]) {
        assert_eq!((self.cols, self.rows * other.cols), (other.rows, out.len()), "shapes of a product");
        if out.is_empty() || self.cols == 0 {
            out.fill(0.0);
            return;
        }
        let threads = match candle_core::utils::get_num_threads() {
            1 => Parallelism::None,
            n => Parallelism::Rayon(n),
        };
        let stride = |n: usize| isize::try_from(n).expect("a slice is no longer than isize::MAX");
        // SAFETY: `new` has cut both slices to reach exactly from the matrix's first element to its last, and `out` holds the whole result.
        unsafe {
            gemm(
                self.rows,
                other.cols,
                self.cols,
                out.as_mut_ptr(),
                1,
                stride(other.cols),
                false,
                self.values.as_ptr(),
                stride(self.col_stride),
                stride(self.row_stride),
                other.values.as_ptr(),
                stride(other.col_stride),
                stride(other.row_stride),
                0.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
    }
}

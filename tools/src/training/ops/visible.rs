//! Which columns of a square of scores its rows see, for operations over rows.

use std::ops::Range;

use candle_core::{CpuStorage, D, Layout, Result, Tensor, bail};

/// Which columns a row sees.
#[derive(Clone, Copy)]
pub(super) enum Visible {
    /// All of them.
    All,
    /// Row `i` of every `size` rows sees columns up to `i`, the last `window` of them.
    Causal { size: usize, window: usize },
}

impl Visible {
    /// For scores with the last axes `[T, T]`.
    pub(super) fn causal(x: &Tensor, window: Option<usize>) -> Result<Visible> {
        let size = x.dim(D::Minus1)?;
        Ok(Visible::Causal { size, window: window.unwrap_or(size) })
    }

    /// Columns that row `row` of `width` columns sees.
    pub(super) fn of(self, row: usize, width: usize) -> Range<usize> {
        match self {
            Visible::All => 0..width,
            Visible::Causal { size, window } => (row % size + 1).saturating_sub(window)..row % size + 1,
        }
    }
}

/// 1 where a row sees a column and 0 elsewhere `[T, T]`; `None` where all see all.
pub(super) fn mask(x: &Tensor, visible: Visible) -> Result<Option<Tensor>> {
    let Visible::Causal { size, .. } = visible else { return Ok(None) };
    let seen = (0..size).flat_map(|row| (0..size).map(move |column| if visible.of(row, size).contains(&column) { 1.0f32 } else { 0.0 }));
    Tensor::from_vec(seen.collect(), (size, size), x.device()).map(Some)
}

/// The values, and how many make a row.
pub(super) fn rows<'a>(x: &'a CpuStorage, layout: &Layout) -> Result<(&'a [f32], usize)> {
    match (x, layout.contiguous_offsets(), layout.dims().last()) {
        (CpuStorage::F32(x), Some((start, end)), Some(&width)) if width > 0 => Ok((&x[start..end], width)),
        _ => bail!("the operation is for contiguous f32 rows"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use candle_core::{Device, Var};

    /// Fails unless two functions of scores `[2, 3, 5, 5]` have the same values and gradients.
    pub(in super::super) fn agree(a: impl Fn(&Tensor) -> Result<Tensor>, b: impl Fn(&Tensor) -> Result<Tensor>) {
        let x = Var::rand(-3.0f32, 3.0, (2, 3, 5, 5), &Device::Cpu).unwrap();
        let weigh = Tensor::rand(-1.0f32, 1.0, (2, 3, 5, 5), &Device::Cpu).unwrap();
        let results = [a(&x).unwrap(), b(&x).unwrap()];
        let gradients = results.each_ref().map(|y| {
            let loss = (y * &weigh).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(&x).unwrap().clone()
        });
        for [a, b] in [results, gradients] {
            let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(apart < 1e-6, "{apart}");
        }
    }
}

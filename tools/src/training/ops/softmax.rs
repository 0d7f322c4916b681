//! Softmax over rows, with a gradient and with a causal mask: most of what attention over short heads costs. As one operation it passes over
//! the scores once, where composed of elementary ones it does so a dozen times, and it leaves out what lies behind the mask.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::visible::{Visible, mask, rows};

/// Softmax over the last axis.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    fused_or_composed(x, Visible::All)
}

/// Softmax over the last of the axes `[…, T, T]`, where row `i` sees columns 0 to `i`, or the last `window` of these; the others become 0.
pub(crate) fn causal_softmax(x: &Tensor, window: Option<usize>) -> Result<Tensor> {
    fused_or_composed(x, Visible::causal(x, window)?)
}

fn fused_or_composed(x: &Tensor, visible: Visible) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Softmax(visible)) } else { composed(x, visible) }
}

/// The same from elementary operations.
fn composed(x: &Tensor, visible: Visible) -> Result<Tensor> {
    let masked = match mask(x, visible)? {
        Some(mask) => x.broadcast_add(&mask.log()?)?,
        None => x.clone(),
    };
    candle_nn::ops::softmax(&masked, D::Minus1)
}

struct Softmax(Visible);

/// What a change of the result `y` makes of a change of the argument: `y · (g - Σ y·g)`, from `y` and `g`.
struct Gradient(Visible);

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = rows(x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).enumerate().for_each(|(row, (y, x))| {
            let seen = self.0.of(row, width);
            let (y, x) = (&mut y[seen.clone()], &x[seen]);
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (y, x) in y.iter_mut().zip(x) {
                *y = (x - largest).exp();
                sum += *y;
            }
            y.iter_mut().for_each(|y| *y /= sum);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        y.apply_op2_no_bwd(&gradient.contiguous()?, &Gradient(self.0)).map(Some)
    }
}

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(&self, y: &CpuStorage, layout: &Layout, g: &CpuStorage, g_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((y, width), (g, _)) = (rows(y, layout)?, rows(g, g_layout)?);
        let mut x = vec![0.0; y.len()];
        let pairs = y.par_chunks_exact(width).zip(g.par_chunks_exact(width));
        x.par_chunks_exact_mut(width).zip(pairs).enumerate().for_each(|(row, (x, (y, g)))| {
            let seen = self.0.of(row, width);
            let (y, g) = (&y[seen.clone()], &g[seen.clone()]);
            let mean: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
            x[seen].iter_mut().zip(y.iter().zip(g)).for_each(|(x, (y, g))| *x = y * (g - mean));
        });
        Ok((CpuStorage::F32(x), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::super::visible::tests::agree;
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_elementary_operations() {
        for window in [None, Some(5), Some(2)] {
            agree(|x| causal_softmax(x, window), |x| composed(x, Visible::causal(x, window)?));
        }
        agree(softmax, |x| composed(x, Visible::All));
    }
}

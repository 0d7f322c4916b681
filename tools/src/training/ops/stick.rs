//! Stick-breaking: weights of attention that are broken off a stick of length one, from a token's own position into the past.
//!
//! `A_ij = σ(l_ij) · Π_{m=j+1..i} (1 − σ(l_im))` for the scores `l` of token `i`. As one operation it takes one exponential for a score, and
//! leaves out what lies behind the mask.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::visible::{Visible, mask, rows};

/// Weights for scores `x` with the last axes `[T, T]`, where row `i` sees columns 0 to `i`, or the last `window` of these; the others become 0.
pub(crate) fn stick_breaking(x: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let visible = Visible::causal(x, window)?;
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Stick(visible)) } else { composed(x, visible) }
}

/// The same from elementary operations.
fn composed(x: &Tensor, visible: Visible) -> Result<Tensor> {
    let Some(mask) = mask(x, visible)? else { return Ok(x.clone()) };
    // log(1 + e^x), safe for large x.
    let softplus = |x: &Tensor| -> Result<Tensor> { x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()? };
    let width = x.dim(D::Minus1)?;
    // Sums over columns behind each one: 1 where row > column.
    let behind = (1.0 - Tensor::triu2(width, DType::F32, x.device())?)?;
    let broken = softplus(x)?.broadcast_mul(&mask)?.broadcast_matmul(&behind)?;
    (softplus(&x.neg()?)? + broken)?.neg()?.exp()?.broadcast_mul(&mask)
}

/// `σ(x)` and `1 − σ(x)`, both to full precision.
fn split(x: f32) -> (f32, f32) {
    let e = (-x.abs()).exp();
    let (near, far) = (1.0 / (1.0 + e), e / (1.0 + e));
    if x >= 0.0 { (near, far) } else { (far, near) }
}

struct Stick(Visible);

/// Of a score: `g·A·(1 − σ) − σ · Σ_{older} g·A`, from the scores, the weights and the gradients of these.
struct Gradient(Visible);

impl CustomOp1 for Stick {
    fn name(&self) -> &'static str {
        "stick-breaking"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = rows(x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).enumerate().for_each(|(row, (y, x))| {
            let seen = self.0.of(row, width);
            let mut left = 1.0;
            for (y, x) in y[seen.clone()].iter_mut().zip(&x[seen]).rev() {
                let (taken, kept) = split(*x);
                *y = left * taken;
                left *= kept;
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op3_no_bwd(y, &gradient.contiguous()?, &Gradient(self.0)).map(Some)
    }
}

impl CustomOp3 for Gradient {
    fn name(&self) -> &'static str {
        "stick-breaking-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((x, width), (y, _), (g, _)) = (rows(x, layout)?, rows(y, y_layout)?, rows(g, g_layout)?);
        let mut d = vec![0.0; x.len()];
        let given = x.par_chunks_exact(width).zip(y.par_chunks_exact(width)).zip(g.par_chunks_exact(width));
        d.par_chunks_exact_mut(width).zip(given).enumerate().for_each(|(row, (d, ((x, y), g)))| {
            let mut older = 0.0;
            for j in self.0.of(row, width) {
                let (taken, kept) = split(x[j]);
                let own = g[j] * y[j];
                d[j] = own * kept - taken * older;
                older += own;
            }
        });
        Ok((CpuStorage::F32(d), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use candle_core::Device;

    use super::super::visible::tests::agree;
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_elementary_operations() {
        for window in [None, Some(5), Some(2)] {
            agree(|x| stick_breaking(x, window), |x| composed(x, Visible::causal(x, window)?));
        }
    }

    #[test]
    fn the_newest_position_takes_first() {
        let x = Tensor::from_vec(vec![0.0f32, 9.0, 0.0, 0.0], (2, 2), &Device::Cpu).unwrap();
        assert_eq!(stick_breaking(&x, None).unwrap().to_vec2::<f32>().unwrap(), [[0.5, 0.0], [0.25, 0.5]]);
    }
}

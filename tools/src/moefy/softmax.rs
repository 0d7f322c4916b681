//! Softmax over rows, with a gradient and with a causal mask: most of what attention over short heads costs. As one operation it passes over
//! the scores once, where composed of elementary ones it does so a dozen times, and it leaves out what lies behind the mask.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Softmax over the last axis.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax { window: None })
}

/// Softmax over the last of the axes `[…, T, T]`, where row `i` sees columns 0 to `i`; the others become 0.
pub(super) fn causal_softmax(x: &Tensor) -> Result<Tensor> {
    let window = x.dims().last().copied();
    x.contiguous()?.apply_op1(Softmax { window })
}

struct Softmax {
    /// Rows until the mask repeats; without it nothing is masked.
    window: Option<usize>,
}

/// What a change of the result `y` makes of a change of the argument: `y · (g - Σ y·g)`, from `y` and `g`.
struct Gradient(Softmax);

impl Softmax {
    /// How many columns row `row` of `width` sees.
    fn seen(&self, row: usize, width: usize) -> usize {
        self.window.map_or(width, |window| row % window + 1)
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = rows(x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).enumerate().for_each(|(row, (y, x))| {
            let seen = self.seen(row, width);
            let (y, x) = (&mut y[..seen], &x[..seen]);
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
        y.apply_op2_no_bwd(&gradient.contiguous()?, &Gradient(Softmax { window: self.window })).map(Some)
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
            let seen = self.0.seen(row, width);
            let (y, g) = (&y[..seen], &g[..seen]);
            let mean: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
            x.iter_mut().zip(y.iter().zip(g)).for_each(|(x, (y, g))| *x = y * (g - mean));
        });
        Ok((CpuStorage::F32(x), layout.shape().clone()))
    }
}

/// The values, and how many make a row.
fn rows<'a>(x: &'a CpuStorage, layout: &Layout) -> Result<(&'a [f32], usize)> {
    match (x, layout.contiguous_offsets(), layout.dims().last()) {
        (CpuStorage::F32(x), Some((start, end)), Some(&width)) if width > 0 => Ok((&x[start..end], width)),
        _ => bail!("softmax is for contiguous f32 rows"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use candle_core::{D, Device, Var};

    /// The same from elementary operations, with -∞ above the diagonal.
    fn composed(x: &Tensor, causal: bool) -> Tensor {
        let t = x.dim(D::Minus1).unwrap();
        let mask: Vec<f32> = (0..t * t).map(|n| if causal && n % t > n / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let masked = x.broadcast_add(&Tensor::from_vec(mask, (t, t), &Device::Cpu).unwrap()).unwrap();
        candle_nn::ops::softmax(&masked, D::Minus1).unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_elementary_operations() {
        let x = Var::rand(-3.0f32, 3.0, (2, 3, 5, 5), &Device::Cpu).unwrap();
        let weigh = Tensor::rand(-1.0f32, 1.0, (2, 3, 5, 5), &Device::Cpu).unwrap();
        for causal in [false, true] {
            let fused = if causal { causal_softmax(&x) } else { softmax(&x) }.unwrap();
            let results = [fused, composed(&x, causal)];
            let gradients = results.each_ref().map(|y| {
                let loss = (y * &weigh).unwrap().sum_all().unwrap();
                loss.backward().unwrap().get(&x).unwrap().clone()
            });
            for [a, b] in [results, gradients] {
                let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(apart < 1e-6, "causal {causal}: {apart}");
            }
        }
    }
}

//! The few operations a decoder is made of, each with a gradient. Activations are rows: `[tokens, width]`.

use candle_core::{D, Result, Tensor};

/// `x · weightᵀ`: `[n, D]` and `[m, D]` give `[n, m]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// `x / √(mean(x²) + eps) · weight` for each row.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

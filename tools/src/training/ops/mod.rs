//! The operations that models are made of, each with a gradient. Activations are rows: `[tokens, width]`.

mod gelu;
mod grouped;
mod multiply;
mod rotary;
mod softmax;
mod stick;
mod visible;

pub(crate) use gelu::gelu_tanh;
pub(crate) use grouped::{Stack, grouped};
pub(crate) use rotary::Rotary;
pub(crate) use softmax::{causal_softmax, softmax};
pub(crate) use stick::stick_breaking;

use candle_core::{D, Result, Tensor};

/// `x · weightᵀ`: `[n, D]` and `[m, D]` give `[n, m]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// `x / √(mean(x²) + eps) · weight` over the last axis.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// `(x − mean) / √(var + eps) · weight + bias` over the last axis.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let y = rms_norm(&x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, weight, eps)?;
    bias.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
}

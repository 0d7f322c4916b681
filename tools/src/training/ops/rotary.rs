//! Rotary position encoding of the leading elements of a head, the first half of them against the second.

use candle_core::{D, Device, Result, Tensor};

/// Sine and cosine for positions `0..T`.
pub(crate) struct Rotary {
    /// `[T, p]` for `p` pairs.
    cos: Tensor,
    /// `[T, p]`.
    sin: Tensor,
}

impl Rotary {
    /// For `window` tokens; `frequencies`: radians per position, one for each pair.
    pub(crate) fn new(frequencies: &[f32], amplitude: f32, window: usize, device: &Device) -> Result<Rotary> {
        let angles = (0..window).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.clone().map(|a| f(a) * amplitude).collect();
            Tensor::from_vec(values, (window, frequencies.len()), device)
        };
        Ok(Rotary { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// Rotates heads `[…, T, h]`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (pairs, width) = (self.cos.dim(1)?, x.dim(D::Minus1)?);
        let (a, b) = (x.narrow(D::Minus1, 0, pairs)?, x.narrow(D::Minus1, pairs, pairs)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        if width == 2 * pairs {
            return Tensor::cat(&[first, second], D::Minus1);
        }
        Tensor::cat(&[first, second, x.narrow(D::Minus1, 2 * pairs, width - 2 * pairs)?], D::Minus1)
    }
}

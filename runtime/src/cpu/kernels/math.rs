//! Elementwise functions in plain Rust that vectorises, compiled once for each instruction set.
//!
//! Only additions, multiplications, divisions, comparisons and bit moves: their results are the same everywhere.

use super::{Block, Group};
use crate::plan::Activation;

/// Adding this leaves a float's nearest integer in its low mantissa bits (ties to even), for magnitudes below 2²².
const ROUND: f32 = 12_582_912.0;

/// See [`Kernels::round`](super::Kernels::round).
#[inline(always)]
pub(super) fn round(x: &[Group], out: &mut [Block]) {
    for (x, b) in x.iter().zip(out) {
        // Magnitudes of floats order like their bits, infinities and NaNs above all.
        let top = f32::from_bits(x.iter().fold(0, |top, v| top.max(v.to_bits() & 0x7fff_ffff)));
        let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
        let mut sum = 0;
        for (q, v) in b.q.iter_mut().zip(x) {
            *q = (v * inverse + ROUND).to_bits() as i8;
            sum += i32::from(*q);
        }
        b.scale = top / 127.0;
        b.fold = -8 * sum;
    }
}

/// `e^x` to about one unit in the last place; from -87 down it stays at `e^-87`, from 88 up at `e^88`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons in this order keep a NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let p = (p * r * r + r) + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x Φ(x)`. The complementary error function is a Chebyshev fit with a relative error of 1.2e-7 everywhere.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `½ x (1 + tanh u)` is `x σ(2u)`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(1.595_769 * (x + 0.044_715 * x * x * x))
}

/// See [`Kernels::activate`](super::Kernels::activate).
#[inline(always)]
pub(super) fn activate(activation: Activation, x: &mut [Group]) {
    let x = x.as_flattened_mut().iter_mut();
    match activation {
        Activation::Clamped { alpha, limit } => x.for_each(|v| {
            let g = if *v > limit { limit } else { *v };
            *v = g * sigmoid(alpha * g);
        }),
        Activation::Silu => x.for_each(|v| *v *= sigmoid(*v)),
        Activation::Gelu => x.for_each(|v| *v = gelu(*v)),
        Activation::GeluTanh => x.for_each(|v| *v = gelu_tanh(*v)),
        // Written so that a NaN stays one.
        Activation::Relu => x.for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
    }
}

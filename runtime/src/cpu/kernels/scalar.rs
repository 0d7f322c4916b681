//! Plain Rust: the definition that the vector versions repeat, and the fallback for every other processor.

#![allow(unsafe_op_in_unsafe_fn, reason = "pointer reads and writes under the contract of `Lanes`")]

use half::f16;

use super::lanes::{DOUBLED, LEAST_POWER, Lanes};
use super::{Block, Group, Rows, Values, kernels, math, tile};
use crate::plan::Activation;

/// Needs nothing.
pub(super) struct Scalar;

kernels!(Scalar, "scalar",);

fn each<T: Copy, U>(a: [T; 16], f: impl FnMut(T) -> U) -> [U; 16] {
    a.map(f)
}

impl Lanes for Scalar {
    const TILE: usize = 4;
    type Float = [f32; 16];
    type Word = [[u8; 4]; 16];
    type Sum = [i32; 16];

    unsafe fn splat(x: f32) -> Self::Float {
        [x; 16]
    }

    unsafe fn load(p: *const f32) -> Self::Float {
        p.cast::<Self::Float>().read_unaligned()
    }

    unsafe fn store(p: *mut f32, x: Self::Float) {
        p.cast::<Self::Float>().write_unaligned(x);
    }

    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i] * b[i])
    }

    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    unsafe fn line(p: *const u8) -> Self::Word {
        p.cast::<Self::Word>().read_unaligned()
    }

    unsafe fn prefetch(_: *const u8) {}

    unsafe fn scales(p: *const u8) -> Self::Float {
        each(p.cast::<[[u8; 2]; 16]>().read_unaligned(), |b| f16::from_le_bytes(b).to_f32())
    }

    unsafe fn powers(p: *const u8) -> Self::Float {
        each(p.cast::<[u8; 16]>().read_unaligned(), |s| f32::from_bits((u32::from(s) << 23).max(LEAST_POWER)))
    }

    unsafe fn halves(w: Self::Word) -> [Self::Float; 2] {
        [each(w, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()), each(w, |b| f16::from_le_bytes([b[2], b[3]]).to_f32())]
    }

    unsafe fn brains(w: Self::Word) -> [Self::Float; 2] {
        [each(w, |b| f32::from_le_bytes([0, 0, b[0], b[1]])), each(w, |b| f32::from_le_bytes([0, 0, b[2], b[3]]))]
    }

    unsafe fn nibbles(w: Self::Word) -> [Self::Word; 2] {
        [each(w, |b| b.map(|b| b & 15)), each(w, |b| b.map(|b| b >> 4))]
    }

    unsafe fn start4(fold: i32) -> Self::Sum {
        [fold; 16]
    }

    unsafe fn dot4(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum {
        let x = x.to_le_bytes().map(|b| i32::from(b.cast_signed()));
        std::array::from_fn(|i| sum[i] + (0..4).map(|b| i32::from(w[i][b]) * x[b]).sum::<i32>())
    }

    unsafe fn finish4(sum: Self::Sum, _: i32) -> Self::Float {
        each(sum, |s| s as f32)
    }

    unsafe fn bytes(w: Self::Word) -> Self::Word {
        w
    }

    unsafe fn doubled(w: Self::Word) -> [Self::Word; 2] {
        Self::nibbles(w).map(|w| each(w, |b| b.map(|n| DOUBLED[usize::from(n)].cast_unsigned())))
    }

    unsafe fn start8(_: i32) -> Self::Sum {
        [0; 16]
    }

    unsafe fn dot8(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum {
        let x = x.to_le_bytes().map(|b| i32::from(b.cast_signed()));
        std::array::from_fn(|i| sum[i] + (0..4).map(|b| i32::from(w[i][b].cast_signed()) * x[b]).sum::<i32>())
    }

    unsafe fn finish8(sum: Self::Sum) -> Self::Float {
        each(sum, |s| s as f32)
    }
}

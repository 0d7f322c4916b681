//! NEON: a line is four registers. With `DOT`, integer products use the dot-product extension (every ARMv8.2 core), else widening
//! multiplications.
//!
//! This file mirrors `avx2.rs`. Its tests run on emulated processors only so far: they say that the bits are right and nothing of speed.

#![allow(unsafe_op_in_unsafe_fn, reason = "intrinsics under the contract of `Lanes`")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{DOUBLED, LEAST_POWER, Lanes};
use super::{Block, Group, Rows, Values, kernels, math, tile};
use crate::plan::Activation;

/// Proof of NEON, and of the dot product where `DOT`.
pub(super) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    pub(super) fn detect() -> Option<&'static Neon<DOT>> {
        let found = std::arch::is_aarch64_feature_detected!("neon") && (!DOT || std::arch::is_aarch64_feature_detected!("dotprod"));
        found.then_some(&Neon(()))
    }
}

kernels!(Neon<true>, "NEON dot product", "neon,dotprod");
kernels!(Neon<false>, "NEON", "neon");

impl<const DOT: bool> Lanes for Neon<DOT> {
    const TILE: usize = 4;
    type Float = [float32x4_t; 4];
    type Word = [uint8x16_t; 4];
    type Sum = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Float {
        [vdupq_n_f32(x); 4]
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::Float {
        [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::Float) {
        vst1q_f32(p, x[0]);
        vst1q_f32(p.add(4), x[1]);
        vst1q_f32(p.add(8), x[2]);
        vst1q_f32(p.add(12), x[3]);
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1]), vfmaq_f32(c[2], a[2], b[2]), vfmaq_f32(c[3], a[3], b[3])]
    }

    #[inline(always)]
    unsafe fn line(p: *const u8) -> Self::Word {
        [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))]
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
    }

    #[inline(always)]
    unsafe fn scales(p: *const u8) -> Self::Float {
        let p = p.cast::<u16>();
        [half(vld1_u16(p)), half(vld1_u16(p.add(4))), half(vld1_u16(p.add(8))), half(vld1_u16(p.add(12)))]
    }

    #[inline(always)]
    unsafe fn powers(p: *const u8) -> Self::Float {
        let (s, least) = (vld1q_u8(p), vdupq_n_u32(LEAST_POWER));
        let (low, high) = (vmovl_u8(vget_low_u8(s)), vmovl_u8(vget_high_u8(s)));
        let power = |s: uint16x4_t| vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32::<23>(vmovl_u16(s)), least));
        [power(vget_low_u16(low)), power(vget_high_u16(low)), power(vget_low_u16(high)), power(vget_high_u16(high))]
    }

    #[inline(always)]
    unsafe fn halves(w: Self::Word) -> [Self::Float; 2] {
        let w = words(w);
        [
            [half(vmovn_u32(w[0])), half(vmovn_u32(w[1])), half(vmovn_u32(w[2])), half(vmovn_u32(w[3]))],
            [half(vshrn_n_u32::<16>(w[0])), half(vshrn_n_u32::<16>(w[1])), half(vshrn_n_u32::<16>(w[2])), half(vshrn_n_u32::<16>(w[3]))],
        ]
    }

    #[inline(always)]
    unsafe fn brains(w: Self::Word) -> [Self::Float; 2] {
        let (w, mask) = (words(w), vdupq_n_u32(0xffff_0000));
        [
            floats([vshlq_n_u32::<16>(w[0]), vshlq_n_u32::<16>(w[1]), vshlq_n_u32::<16>(w[2]), vshlq_n_u32::<16>(w[3])]),
            floats([vandq_u32(w[0], mask), vandq_u32(w[1], mask), vandq_u32(w[2], mask), vandq_u32(w[3], mask)]),
        ]
    }

    #[inline(always)]
    unsafe fn nibbles(w: Self::Word) -> [Self::Word; 2] {
        let mask = vdupq_n_u8(15);
        [
            [vandq_u8(w[0], mask), vandq_u8(w[1], mask), vandq_u8(w[2], mask), vandq_u8(w[3], mask)],
            [vshrq_n_u8::<4>(w[0]), vshrq_n_u8::<4>(w[1]), vshrq_n_u8::<4>(w[2]), vshrq_n_u8::<4>(w[3])],
        ]
    }

    #[inline(always)]
    unsafe fn start4(fold: i32) -> Self::Sum {
        [vdupq_n_s32(fold); 4]
    }

    #[inline(always)]
    unsafe fn dot4(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum {
        Self::dot8(sum, w, x)
    }

    #[inline(always)]
    unsafe fn finish4(sum: Self::Sum, _: i32) -> Self::Float {
        Self::finish8(sum)
    }

    #[inline(always)]
    unsafe fn bytes(w: Self::Word) -> Self::Word {
        w
    }

    #[inline(always)]
    unsafe fn doubled(w: Self::Word) -> [Self::Word; 2] {
        let table = vld1q_u8(DOUBLED.as_ptr().cast());
        let [low, high] = Self::nibbles(w);
        let look_up = |w: Self::Word| [vqtbl1q_u8(table, w[0]), vqtbl1q_u8(table, w[1]), vqtbl1q_u8(table, w[2]), vqtbl1q_u8(table, w[3])];
        [look_up(low), look_up(high)]
    }

    #[inline(always)]
    unsafe fn start8(_: i32) -> Self::Sum {
        [vdupq_n_s32(0); 4]
    }

    #[inline(always)]
    unsafe fn dot8(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum {
        let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
        if DOT {
            [sdot(sum[0], w[0], x), sdot(sum[1], w[1], x), sdot(sum[2], w[2], x), sdot(sum[3], w[3], x)]
        } else {
            [widen(sum[0], w[0], x), widen(sum[1], w[1], x), widen(sum[2], w[2], x), widen(sum[3], w[3], x)]
        }
    }

    #[inline(always)]
    unsafe fn finish8(sum: Self::Sum) -> Self::Float {
        [vcvtq_f32_s32(sum[0]), vcvtq_f32_s32(sum[1]), vcvtq_f32_s32(sum[2]), vcvtq_f32_s32(sum[3])]
    }
}

/// Four half-precision values.
#[inline(always)]
unsafe fn half(bits: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(bits))
}

#[inline(always)]
unsafe fn words(w: [uint8x16_t; 4]) -> [uint32x4_t; 4] {
    [vreinterpretq_u32_u8(w[0]), vreinterpretq_u32_u8(w[1]), vreinterpretq_u32_u8(w[2]), vreinterpretq_u32_u8(w[3])]
}

#[inline(always)]
unsafe fn floats(w: [uint32x4_t; 4]) -> [float32x4_t; 4] {
    [vreinterpretq_f32_u32(w[0]), vreinterpretq_f32_u32(w[1]), vreinterpretq_f32_u32(w[2]), vreinterpretq_f32_u32(w[3])]
}

/// Adds four products of signed bytes to each lane. The intrinsic for this instruction is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot(sum: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    asm!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b", sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
        options(pure, nomem, nostack, preserves_flags));
    sum
}

/// The same without the dot-product extension: products of two bytes fit 16 bits, their pairwise sums go to 32.
#[inline(always)]
unsafe fn widen(sum: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
    let w = vreinterpretq_s8_u8(w);
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_high_s8(w, x));
    vaddq_s32(sum, vpaddq_s32(low, high))
}

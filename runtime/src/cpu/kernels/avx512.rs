//! AVX-512 with VNNI: a line is one register, and `vpdpbusd` multiplies unsigned weights by signed activations.

#![allow(unsafe_op_in_unsafe_fn, reason = "intrinsics under the contract of `Lanes`")]

use std::arch::x86_64::*;

use super::lanes::{DOUBLED, LEAST_POWER, Lanes};
use super::{Block, Group, Rows, Values, kernels, math, tile};
use crate::plan::Activation;

/// Proof of AVX-512 F, BW, VL and VNNI.
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<&'static Avx512> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        found.then_some(&Avx512(()))
    }
}

kernels!(Avx512, "AVX-512 VNNI", "avx512f,avx512bw,avx512vl,avx512vnni,fma");

impl Lanes for Avx512 {
    const TILE: usize = 16;
    type Float = __m512;
    type Word = __m512i;
    type Sum = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        _mm512_storeu_ps(p, x);
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn line(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }

    #[inline(always)]
    unsafe fn scales(p: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }

    #[inline(always)]
    unsafe fn powers(p: *const u8) -> __m512 {
        let bits = _mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())));
        _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(LEAST_POWER.cast_signed())))
    }

    #[inline(always)]
    unsafe fn halves(w: __m512i) -> [__m512; 2] {
        [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(w)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(w)))]
    }

    #[inline(always)]
    unsafe fn brains(w: __m512i) -> [__m512; 2] {
        let high = _mm512_and_si512(w, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(w)), _mm512_castsi512_ps(high)]
    }

    #[inline(always)]
    unsafe fn nibbles(w: __m512i) -> [__m512i; 2] {
        let mask = _mm512_set1_epi8(15);
        [_mm512_and_si512(w, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(w), mask)]
    }

    #[inline(always)]
    unsafe fn start4(fold: i32) -> __m512i {
        _mm512_set1_epi32(fold)
    }

    #[inline(always)]
    unsafe fn dot4(sum: __m512i, w: __m512i, x: i32) -> __m512i {
        _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x))
    }

    #[inline(always)]
    unsafe fn finish4(sum: __m512i, _: i32) -> __m512 {
        _mm512_cvtepi32_ps(sum)
    }

    /// Adds 128 to make weights unsigned; `start8` takes it off again: `-128 Σ q = 16 · fold`.
    #[inline(always)]
    unsafe fn bytes(w: __m512i) -> __m512i {
        _mm512_xor_si512(w, _mm512_set1_epi8(-128))
    }

    #[inline(always)]
    unsafe fn doubled(w: __m512i) -> [__m512i; 2] {
        // The table with its 128 already added.
        let table = Self::bytes(_mm512_broadcast_i32x4(_mm_loadu_si128(DOUBLED.as_ptr().cast())));
        Self::nibbles(w).map(|w| _mm512_shuffle_epi8(table, w))
    }

    #[inline(always)]
    unsafe fn start8(fold: i32) -> __m512i {
        _mm512_set1_epi32(16 * fold)
    }

    #[inline(always)]
    unsafe fn dot8(sum: __m512i, w: __m512i, x: i32) -> __m512i {
        _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x))
    }

    #[inline(always)]
    unsafe fn finish8(sum: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(sum)
    }
}

//! AVX2 with FMA and F16C: a line is two registers.

#![allow(unsafe_op_in_unsafe_fn, reason = "intrinsics under the contract of `Lanes`")]

use std::arch::x86_64::*;

use super::lanes::{DOUBLED, LEAST_POWER, Lanes};
use super::{Block, Group, Rows, Values, kernels, math, tile};
use crate::plan::Activation;

/// Proof of AVX2, FMA and F16C.
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<&'static Avx2> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(&Avx2(()))
    }
}

kernels!(Avx2, "AVX2", "avx2,fma,f16c");

impl Lanes for Avx2 {
    const TILE: usize = 4;
    type Float = [__m256; 2];
    type Word = [__m256i; 2];
    /// Sums of q4 are kept as pairs of 16-bit sums until the group is complete: 16 · 15 · 127 < 2¹⁵.
    type Sum = [__m256i; 2];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [__m256; 2] {
        [_mm256_set1_ps(x); 2]
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> [__m256; 2] {
        [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))]
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, x: [__m256; 2]) {
        _mm256_storeu_ps(p, x[0]);
        _mm256_storeu_ps(p.add(8), x[1]);
    }

    #[inline(always)]
    unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[inline(always)]
    unsafe fn line(p: *const u8) -> [__m256i; 2] {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }

    #[inline(always)]
    unsafe fn scales(p: *const u8) -> [__m256; 2] {
        [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))]
    }

    #[inline(always)]
    unsafe fn powers(p: *const u8) -> [__m256; 2] {
        let least = _mm256_set1_epi32(LEAST_POWER.cast_signed());
        let power = |s| _mm256_castsi256_ps(_mm256_max_epu32(_mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(s)), least));
        [power(_mm_loadl_epi64(p.cast())), power(_mm_loadl_epi64(p.add(8).cast()))]
    }

    #[inline(always)]
    unsafe fn halves(w: [__m256i; 2]) -> [[__m256; 2]; 2] {
        let low = [
            narrow(_mm256_blend_epi16::<0xaa>(w[0], _mm256_setzero_si256())),
            narrow(_mm256_blend_epi16::<0xaa>(w[1], _mm256_setzero_si256())),
        ];
        let high = [narrow(_mm256_srli_epi32::<16>(w[0])), narrow(_mm256_srli_epi32::<16>(w[1]))];
        [[_mm256_cvtph_ps(low[0]), _mm256_cvtph_ps(low[1])], [_mm256_cvtph_ps(high[0]), _mm256_cvtph_ps(high[1])]]
    }

    #[inline(always)]
    unsafe fn brains(w: [__m256i; 2]) -> [[__m256; 2]; 2] {
        let mask = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        let low = [_mm256_slli_epi32::<16>(w[0]), _mm256_slli_epi32::<16>(w[1])];
        let high = [_mm256_and_si256(w[0], mask), _mm256_and_si256(w[1], mask)];
        [[_mm256_castsi256_ps(low[0]), _mm256_castsi256_ps(low[1])], [_mm256_castsi256_ps(high[0]), _mm256_castsi256_ps(high[1])]]
    }

    #[inline(always)]
    unsafe fn nibbles(w: [__m256i; 2]) -> [[__m256i; 2]; 2] {
        let mask = _mm256_set1_epi8(15);
        let high = [_mm256_srli_epi16::<4>(w[0]), _mm256_srli_epi16::<4>(w[1])];
        [[_mm256_and_si256(w[0], mask), _mm256_and_si256(w[1], mask)], [_mm256_and_si256(high[0], mask), _mm256_and_si256(high[1], mask)]]
    }

    #[inline(always)]
    unsafe fn start4(_: i32) -> [__m256i; 2] {
        [_mm256_setzero_si256(); 2]
    }

    #[inline(always)]
    unsafe fn dot4(sum: [__m256i; 2], w: [__m256i; 2], x: i32) -> [__m256i; 2] {
        let x = _mm256_set1_epi32(x);
        [_mm256_add_epi16(sum[0], _mm256_maddubs_epi16(w[0], x)), _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(w[1], x))]
    }

    #[inline(always)]
    unsafe fn finish4(sum: [__m256i; 2], fold: i32) -> [__m256; 2] {
        let (ones, fold) = (_mm256_set1_epi16(1), _mm256_set1_epi32(fold));
        let sum = [_mm256_add_epi32(_mm256_madd_epi16(sum[0], ones), fold), _mm256_add_epi32(_mm256_madd_epi16(sum[1], ones), fold)];
        [_mm256_cvtepi32_ps(sum[0]), _mm256_cvtepi32_ps(sum[1])]
    }

    #[inline(always)]
    unsafe fn bytes(w: [__m256i; 2]) -> [__m256i; 2] {
        w
    }

    #[inline(always)]
    unsafe fn doubled(w: [__m256i; 2]) -> [[__m256i; 2]; 2] {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(DOUBLED.as_ptr().cast()));
        let [low, high] = Self::nibbles(w);
        let look_up = |w: [__m256i; 2]| [_mm256_shuffle_epi8(table, w[0]), _mm256_shuffle_epi8(table, w[1])];
        [look_up(low), look_up(high)]
    }

    #[inline(always)]
    unsafe fn start8(_: i32) -> [__m256i; 2] {
        [_mm256_setzero_si256(); 2]
    }

    #[inline(always)]
    unsafe fn dot8(sum: [__m256i; 2], w: [__m256i; 2], x: i32) -> [__m256i; 2] {
        let x = _mm256_set1_epi32(x);
        [_mm256_add_epi32(sum[0], dot_signed(w[0], x)), _mm256_add_epi32(sum[1], dot_signed(w[1], x))]
    }

    #[inline(always)]
    unsafe fn finish8(sum: [__m256i; 2]) -> [__m256; 2] {
        [_mm256_cvtepi32_ps(sum[0]), _mm256_cvtepi32_ps(sum[1])]
    }
}

/// The low 16 bits of eight words whose high halves are zero.
#[inline(always)]
unsafe fn narrow(w: __m256i) -> __m128i {
    let packed = _mm256_packus_epi32(w, w);
    _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
}

/// Four products of signed bytes in each lane. The sign moves from `w` to `x`, so a pair is at most 2 · 128 · 127 < 2¹⁵.
#[inline(always)]
unsafe fn dot_signed(w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

//! Panels times tokens: the matrix product, written once against [`Lanes`].
//!
//! A tile is a panel by `N` tokens with one accumulator for each, all in registers. The weights of a group are unpacked once
//! and meet every token of the tile.

use super::lanes::Lanes;
use super::{Block, Group, Rows, Values};
use crate::codec::{Codec, GROUP, LINE, PANEL};

/// How far ahead of the panel's lines to prefetch, in bytes. Prefetchers of the hardware stop at page ends; this does not.
const AHEAD: usize = 4096;

/// See [`Kernels::product`](super::Kernels::product).
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes>(w: &Rows<'_>, x: Values<'_>, tokens: usize, first: usize, out: &mut [Group], accumulate: bool) {
    assert!(w.is_complete() && x.len() == w.groups * tokens && first + out.len() <= tokens, "shapes of a product");
    let mut done = 0;
    while done < out.len() {
        let (left, at) = (out.len() - done, Tile { tokens, first: first + done, accumulate });
        let out = &mut out[done..];
        // SAFETY: features as above; shapes were checked above, and a tile is not larger than what is left.
        done += unsafe {
            match left {
                16.. if L::TILE >= 16 => by_codec::<L, 16>(w, x, at, out),
                8.. if L::TILE >= 8 => by_codec::<L, 8>(w, x, at, out),
                4.. => by_codec::<L, 4>(w, x, at, out),
                2.. => by_codec::<L, 2>(w, x, at, out),
                _ => by_codec::<L, 1>(w, x, at, out),
            }
        };
    }
}

/// Which tokens a tile is about.
#[derive(Clone, Copy)]
struct Tile {
    /// Tokens in the right-hand side: the distance between groups.
    tokens: usize,
    /// The tile's first token.
    first: usize,
    /// Whether accumulators start from what is in `out`.
    accumulate: bool,
}

/// Computes `N` tokens and says so.
///
/// # Safety
/// Features of `L`; `w` complete; `x` holds `w.groups * at.tokens` items; `at.first + N <= at.tokens` and `N <= out.len()`.
#[inline(always)]
unsafe fn by_codec<L: Lanes, const N: usize>(w: &Rows<'_>, x: Values<'_>, at: Tile, out: &mut [Group]) -> usize {
    // SAFETY: the conditions are handed on.
    unsafe {
        match (w.codec, x) {
            (Codec::F32, Values::Float(x)) => panels::<L, FloatTile<1>, N>(w, x.as_ptr(), at, out),
            (Codec::F16, Values::Float(x)) => panels::<L, FloatTile<2>, N>(w, x.as_ptr(), at, out),
            (Codec::Bf16, Values::Float(x)) => panels::<L, FloatTile<3>, N>(w, x.as_ptr(), at, out),
            (Codec::Q8, Values::Rounded(x)) => panels::<L, RoundedTile<Q8>, N>(w, x.as_ptr(), at, out),
            (Codec::Q4, Values::Rounded(x)) => panels::<L, RoundedTile<Q4>, N>(w, x.as_ptr(), at, out),
            (Codec::Mxfp4, Values::Rounded(x)) => panels::<L, RoundedTile<MXFP4>, N>(w, x.as_ptr(), at, out),
            _ => panic!("values of a product are not in the form its matrix needs"),
        }
    }
    N
}

/// The loop over groups of one codec.
trait Inner {
    type Item;

    /// Adds the products of a panel with `N` tokens to `acc`. `x` points to the first token of group 0.
    ///
    /// # Safety
    /// As for [`by_codec`].
    unsafe fn run<L: Lanes, const N: usize>(
        words: *const u8,
        scales: *const u8,
        groups: usize,
        x: *const Self::Item,
        tokens: usize,
        acc: &mut [L::Float; N],
    );
}

/// One panel after the other: in memory the second follows the first, and so does what is prefetched.
///
/// # Safety
/// As for [`by_codec`].
#[inline(always)]
unsafe fn panels<L: Lanes, I: Inner, const N: usize>(w: &Rows<'_>, x: *const I::Item, at: Tile, out: &mut [Group]) {
    for p in 0..2 {
        // SAFETY: the conditions are handed on; `out` has N groups of two panels' lanes.
        unsafe {
            let (x, y) = (x.add(at.first), out.as_mut_ptr().cast::<f32>().add(p * PANEL));
            let mut acc = [L::splat(0.0); N];
            if at.accumulate {
                for (t, acc) in acc.iter_mut().enumerate() {
                    *acc = L::load(y.add(t * GROUP));
                }
            }
            if p < w.panels() {
                I::run::<L, N>(w.words[p].as_ptr(), w.scales[p].as_ptr(), w.groups, x, at.tokens, &mut acc);
            }
            for (t, &acc) in acc.iter().enumerate() {
                L::store(y.add(t * GROUP), acc);
            }
        }
    }
}

/// [`RoundedTile`] for each codec with scales.
const Q8: usize = 0;
const Q4: usize = 1;
const MXFP4: usize = 2;

/// 8-bit activations against q8, q4 or mxfp4.
struct RoundedTile<const KIND: usize>;

impl<const KIND: usize> Inner for RoundedTile<KIND> {
    type Item = Block;

    #[inline(always)]
    unsafe fn run<L: Lanes, const N: usize>(
        words: *const u8,
        scales: *const u8,
        groups: usize,
        x: *const Block,
        tokens: usize,
        acc: &mut [L::Float; N],
    ) {
        let (count, scale_bytes) = if KIND == Q8 { (8, 2) } else { (4, if KIND == Q4 { 2 } else { 1 }) };
        for g in 0..groups {
            // SAFETY: `by_codec`'s conditions: the panel has `groups` groups of `count` lines and 16 scales, and every group of `x`
            // has `tokens` blocks, of which N follow the pointer.
            unsafe {
                let (x, lines, scales) = (x.add(g * tokens), words.add(g * count * LINE), scales.add(g * PANEL * scale_bytes));
                for i in 0..count {
                    L::prefetch(lines.wrapping_add(AHEAD + i * LINE));
                }
                L::prefetch(scales.wrapping_add(AHEAD / 4));
                let mut w = [L::line(lines); 8];
                for i in 0..count {
                    let line = L::line(lines.add(i * LINE));
                    match KIND {
                        Q8 => w[i] = L::bytes(line),
                        Q4 => [w[2 * i], w[2 * i + 1]] = L::nibbles(line),
                        _ => [w[2 * i], w[2 * i + 1]] = L::doubled(line),
                    }
                }
                let scale = if KIND == MXFP4 { L::powers(scales) } else { L::scales(scales) };
                for (t, acc) in acc.iter_mut().enumerate() {
                    let b = &*x.add(t);
                    let q = b.q.as_ptr().cast::<i32>();
                    let sum = if KIND == Q4 {
                        let mut sum = L::start4(b.fold);
                        for (i, &w) in w.iter().enumerate() {
                            sum = L::dot4(sum, w, q.add(i).read());
                        }
                        L::finish4(sum, b.fold)
                    } else {
                        let mut sum = L::start8(b.fold);
                        for (i, &w) in w.iter().enumerate() {
                            sum = L::dot8(sum, w, q.add(i).read());
                        }
                        L::finish8(sum)
                    };
                    // Doubled weights count half.
                    let by = if KIND == MXFP4 { 0.5 * b.scale } else { b.scale };
                    *acc = L::fma(sum, L::mul(scale, L::splat(by)), *acc);
                }
            }
        }
    }
}

/// Floats against f32 (`KIND` = 1), f16 (2) or bf16 (3).
struct FloatTile<const KIND: usize>;

impl<const KIND: usize> Inner for FloatTile<KIND> {
    type Item = Group;

    #[inline(always)]
    unsafe fn run<L: Lanes, const N: usize>(
        words: *const u8,
        _scales: *const u8,
        groups: usize,
        x: *const Group,
        tokens: usize,
        acc: &mut [L::Float; N],
    ) {
        let pair_bytes = if KIND == 1 { 2 * LINE } else { LINE };
        for g in 0..groups {
            for pair in 0..GROUP / 2 {
                // SAFETY: `by_codec`'s conditions: the panel has `groups` groups of 32 (or half as many) lines, and every group of
                // `x` has `tokens` items, of which N follow the pointer.
                unsafe {
                    let x = x.add(g * tokens).cast::<f32>().add(2 * pair);
                    let line = words.add((g * GROUP / 2 + pair) * pair_bytes);
                    L::prefetch(line.wrapping_add(AHEAD));
                    let w = match KIND {
                        1 => {
                            L::prefetch(line.wrapping_add(AHEAD + LINE));
                            [L::load(line.cast()), L::load(line.add(LINE).cast())]
                        }
                        2 => L::halves(L::line(line)),
                        _ => L::brains(L::line(line)),
                    };
                    for (t, acc) in acc.iter_mut().enumerate() {
                        *acc = L::fma(w[0], L::splat(x.add(t * GROUP).read()), *acc);
                        *acc = L::fma(w[1], L::splat(x.add(t * GROUP + 1).read()), *acc);
                    }
                }
            }
        }
    }
}

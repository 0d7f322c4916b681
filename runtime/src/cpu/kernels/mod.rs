//! The arithmetic that matters, once for each instruction set.
//!
//! Every instruction set computes **the same bits**: a row of a matrix has one accumulator that takes its groups of columns in
//! order. Quantised groups are summed exactly in integers and join with one fused multiply-add; float columns join one by one.
//! Lanes are rows, so nothing is ever summed across lanes, and the number of tokens in a call changes no result.
//!
//! [`lanes`] says what sixteen lanes must be able to do, [`tile`] is the matrix product written against it, and each of the files
//! named after an instruction set implements the lanes and compiles the rest of this module for it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod tile;

#[cfg(test)]
mod tests;

use crate::codec::{Codec, GROUP, Matrix, PANEL};
use crate::plan::Activation;

/// Thirty-two consecutive features of one token.
pub(super) type Group = [f32; GROUP];

/// A [`Group`] rounded to 8 bits: `value ≈ q · scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct Block {
    /// Largest magnitude / 127; not finite when a value of the group is not.
    pub(super) scale: f32,
    /// `-8 Σ q`: what unsigned 4-bit weights, stored with an offset of 8, have too much.
    pub(super) fold: i32,
    /// Within ±127.
    pub(super) q: [i8; GROUP],
}

/// Up to thirty-two consecutive rows of a matrix: two panels, or one at an odd end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) codec: Codec,
    /// Groups of 32 columns.
    pub(super) groups: usize,
    /// Lines of each panel; the second is empty when there is none.
    pub(super) words: [&'a [u8]; 2],
    /// Scales of each panel; empty without scales.
    pub(super) scales: [&'a [u8]; 2],
}

impl<'a> Rows<'a> {
    /// The rows of panel `p` of `m`, and of the next one where that is before `end`.
    pub(super) fn of(m: Matrix<'a>, p: usize, end: usize) -> Rows<'a> {
        let (layout, second) = (m.layout(), p + 1 < end);
        Rows {
            codec: layout.codec,
            groups: layout.groups(),
            words: [m.words(p), if second { m.words(p + 1) } else { &[] }],
            scales: [m.scales(p), if second { m.scales(p + 1) } else { &[] }],
        }
    }

    fn panels(&self) -> usize {
        if self.words[1].is_empty() { 1 } else { 2 }
    }

    /// Whether every slice is as long as the layout of a panel says.
    fn is_complete(&self) -> bool {
        let lines = self.groups * GROUP / self.codec.columns_per_word();
        let scales = self.groups * PANEL * self.codec.scale_bytes();
        (0..self.panels()).all(|p| self.words[p].len() == lines * crate::codec::LINE && self.scales[p].len() == scales)
    }
}

/// The right-hand side of a product: `[groups][rows]`, as the codec of the matrix wants it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    /// For matrices of floats.
    Float(&'a [Group]),
    /// For quantised matrices.
    Rounded(&'a [Block]),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Values::Float(x) => x.len(),
            Values::Rounded(x) => x.len(),
        }
    }
}

/// One instruction set.
pub(super) trait Kernels: Send + Sync {
    /// For people.
    fn name(&self) -> &'static str;

    /// `out[t] = w · x[first + t]` for each of `out.len()` tokens of the `tokens` in `x`, or `+=` when `accumulate`.
    ///
    /// # Panics
    /// When `x` does not hold `tokens` for each group of the matrix, or not in the form its codec needs.
    fn product(&self, w: &Rows<'_>, x: Values<'_>, tokens: usize, first: usize, out: &mut [Group], accumulate: bool);

    /// Rounds each group to 8 bits.
    fn round(&self, x: &[Group], out: &mut [Block]);

    /// `x = exp(x - shift)`.
    fn exp(&self, x: &mut Group, shift: f32);

    /// `x = σ(x)`.
    fn sigmoid(&self, x: &mut Group);

    /// `x = act(x)`; of [`Activation::Clamped`] the gate's part.
    fn activate(&self, activation: Activation, x: &mut [Group]);
}

/// The instruction sets this machine has, best first; the last is plain Rust.
pub(super) fn available() -> Vec<&'static dyn Kernels> {
    let mut out: Vec<&'static dyn Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        out.extend(avx512::Avx512::detect().map(|k| k as &dyn Kernels));
        out.extend(avx2::Avx2::detect().map(|k| k as &dyn Kernels));
    }
    #[cfg(target_arch = "aarch64")]
    {
        out.extend(neon::Neon::<true>::detect().map(|k| k as &dyn Kernels));
        out.extend(neon::Neon::<false>::detect().map(|k| k as &dyn Kernels));
    }
    out.push(&scalar::Scalar);
    out
}

/// Compiles this module's generic code for one instruction set.
macro_rules! kernels {
    ($isa:ty, $name:literal, $($features:tt)?) => {
        impl $crate::cpu::kernels::Kernels for $isa {
            fn name(&self) -> &'static str {
                $name
            }

            fn product(&self, w: &Rows<'_>, x: Values<'_>, tokens: usize, first: usize, out: &mut [Group], accumulate: bool) {
                $(#[target_feature(enable = $features)])?
                unsafe fn inner(w: &Rows<'_>, x: Values<'_>, tokens: usize, first: usize, out: &mut [Group], accumulate: bool) {
                    // SAFETY: the caller has the features of this instruction set.
                    unsafe { tile::product::<$isa>(w, x, tokens, first, out, accumulate) }
                }
                // SAFETY: a value of this type exists only where its features were detected.
                unsafe { inner(w, x, tokens, first, out, accumulate) }
            }

            fn round(&self, x: &[Group], out: &mut [Block]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn inner(x: &[Group], out: &mut [Block]) {
                    math::round(x, out);
                }
                // SAFETY: as above.
                unsafe { inner(x, out) }
            }

            fn exp(&self, x: &mut Group, shift: f32) {
                $(#[target_feature(enable = $features)])?
                unsafe fn inner(x: &mut Group, shift: f32) {
                    x.iter_mut().for_each(|v| *v = math::exp(*v - shift));
                }
                // SAFETY: as above.
                unsafe { inner(x, shift) }
            }

            fn sigmoid(&self, x: &mut Group) {
                $(#[target_feature(enable = $features)])?
                unsafe fn inner(x: &mut Group) {
                    x.iter_mut().for_each(|v| *v = math::sigmoid(*v));
                }
                // SAFETY: as above.
                unsafe { inner(x) }
            }

            fn activate(&self, activation: Activation, x: &mut [Group]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn inner(activation: Activation, x: &mut [Group]) {
                    math::activate(activation, x);
                }
                // SAFETY: as above.
                unsafe { inner(activation, x) }
            }
        }
    };
}
use kernels;

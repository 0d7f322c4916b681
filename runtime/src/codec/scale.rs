//! Choosing the scale of a group of 32 weights.
//!
//! Plainly, every weight's rounding error counts alike. Where it is known how large the inputs are that a column is multiplied with, the
//! error of the product is what should be small: `Σ importance · error²`, with the mean square of the column's inputs as its importance.

use half::f16;

use super::{E2M1, GROUP, e8m0};

/// Whole multiples of a scale between two bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    low: f32,
    high: f32,
    /// Where the value of largest magnitude may come to lie, in multiples, at least and at most: beyond a bound it is clipped.
    cuts: (f32, f32),
}

/// Ways to cut a group by importance.
const CUTS: usize = 18;
/// How often a scale follows from quanta and quanta from the scale.
const REFINEMENTS: usize = 3;

impl Grid {
    pub(super) const Q8: Grid = Grid { low: -127.0, high: 127.0, cuts: (118.0, 134.0) };
    pub(super) const Q4: Grid = Grid { low: -8.0, high: 7.0, cuts: (5.5, 12.0) };

    /// The scale to store.
    pub(super) fn scale(self, group: &[f32; GROUP], importance: Option<&[f32; GROUP]>) -> f16 {
        let plain = if self.low == -self.high { self.widest(group) } else { self.least_squares(group) };
        match useful(importance) {
            Some(w) if plain != f16::ZERO => self.least_weighted(group, w, plain),
            _ => plain,
        }
    }

    /// The nearest multiples of `scale`, as multiples; all zero for a zero scale.
    pub(super) fn quanta(self, group: &[f32; GROUP], scale: f16) -> [f32; GROUP] {
        let s = scale.to_f32();
        let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
        group.map(|v| self.quantum(v * inverse))
    }

    fn quantum(self, x: f32) -> f32 {
        round(x.clamp(self.low, self.high))
    }

    /// The scale that clips nothing.
    fn widest(self, group: &[f32; GROUP]) -> f16 {
        storable(extreme(group).abs() / self.high)
    }

    /// The scale with the least squared error among a few ways to cut the group.
    ///
    /// The extreme value goes near -8 (negative scales reach both signs): a little beyond, so that it is clipped to the profit of the
    /// others, or a little before. Each cut's own best scale follows in closed form, so five cuts do as well as a fine search.
    fn least_squares(self, group: &[f32; GROUP]) -> f16 {
        let extreme = extreme(group);
        if extreme == 0.0 || !extreme.is_finite() {
            return f16::ZERO;
        }
        let mut best = (0.0, 1.0);
        for position in [-8.8, -8.325, -7.85, -7.375, -6.9] {
            // The error of the best scale xq / qq is Σ x² - xq² / qq.
            let (xq, qq) = self.products(group, &[1.0; GROUP], position / extreme);
            if xq * xq * best.1 > best.0 * best.0 * qq {
                best = (xq, qq);
            }
        }
        storable(best.0 / best.1)
    }

    /// The scale with the least weighted error among many ways to cut the group, `plain` included. What is unimportant may be clipped far,
    /// so it is cut by its heaviest value as well as by its extreme one, on both sides of zero, and the best cut is refined.
    fn least_weighted(self, group: &[f32; GROUP], importance: &[f32; GROUP], plain: f16) -> f16 {
        let (extreme, heaviest) = (extreme(group), heaviest(group, importance));
        let anchors = if extreme == heaviest { &[extreme][..] } else { &[extreme, heaviest] };
        let (least, most) = self.cuts;
        let mut best = (0.0, 1.0);
        for (&anchor, i) in anchors.iter().filter(|a| **a != 0.0).flat_map(|a| (0..CUTS).map(move |i| (a, i))) {
            let position = least + (most - least) * i as f32 / (CUTS - 1) as f32;
            for position in [position, -position] {
                let (xq, qq) = self.products(group, importance, position / anchor);
                if xq * xq * best.1 > best.0 * best.0 * qq {
                    best = (xq, qq);
                }
            }
        }
        for _ in 0..REFINEMENTS {
            if best.0 != 0.0 {
                best = self.products(group, importance, best.1 / best.0);
            }
        }
        // A scale that is stored in half precision is not quite the one found, so the two are compared as they would be read.
        let found = storable(best.0 / best.1);
        if self.error(group, importance, found) < self.error(group, importance, plain) { found } else { plain }
    }

    /// `(Σ w · x · q, Σ w · q²)` for the quanta of the group at this inverse scale.
    fn products(self, group: &[f32; GROUP], importance: &[f32; GROUP], inverse: f32) -> (f32, f32) {
        // Eight running sums, so that the additions need not wait for each other.
        let (mut xq, mut qq) = ([0.0; 8], [0.0; 8]);
        for (x, w) in group.chunks_exact(8).zip(importance.chunks_exact(8)) {
            for i in 0..8 {
                let q = self.quantum(x[i] * inverse);
                xq[i] += w[i] * x[i] * q;
                qq[i] += w[i] * q * q;
            }
        }
        (xq.iter().sum(), qq.iter().sum())
    }

    /// `Σ w · (x - q · scale)²`.
    fn error(self, group: &[f32; GROUP], importance: &[f32; GROUP], scale: f16) -> f64 {
        let s = scale.to_f32();
        let terms = group.iter().zip(self.quanta(group, scale)).zip(importance);
        terms.map(|((x, q), w)| f64::from(*w) * f64::from(x - q * s).powi(2)).sum()
    }
}

/// Weights that say something.
fn useful(importance: Option<&[f32; GROUP]>) -> Option<&[f32; GROUP]> {
    importance.filter(|w| (f32::MIN_POSITIVE..f32::INFINITY).contains(&w.iter().sum()))
}

/// The value of largest magnitude.
fn extreme(group: &[f32; GROUP]) -> f32 {
    group.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a })
}

/// The value that matters most.
fn heaviest(group: &[f32; GROUP], importance: &[f32; GROUP]) -> f32 {
    let weight = |i: usize| importance[i] * group[i] * group[i];
    group[(1..GROUP).fold(0, |best, i| if weight(i) > weight(best) { i } else { best })]
}

/// To the nearest whole number, for small numbers: a sum and a difference that vectorise on every machine.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³: no bits are left for fractions
    (x + SHIFT) - SHIFT
}

/// Half precision, away from zero where rounding would lose the group and below infinity.
fn storable(scale: f32) -> f16 {
    f16::from_f32(scale.clamp(-65504.0, 65504.0))
}

/// The power of two with the least squared error: the one that puts the largest value between 4 and 8, or the next. What is already on the
/// grid of some scale is on that of the first. By importance also those that do so with the heaviest value.
pub(super) fn mxfp4_scale(group: &[f32; GROUP], importance: Option<&[f32; GROUP]>) -> u8 {
    let top = extreme(group).abs();
    if top == 0.0 || !top.is_finite() {
        return 0;
    }
    // Exponents of subnormal numbers count as the smallest normal one.
    let first = |of: f32| ((of.abs().to_bits() >> 23).cast_signed() - 2).clamp(0, 253) as u8;
    let (w, other) = useful(importance).map_or((&[1.0; GROUP], top), |w| (w, heaviest(group, w)));
    let error = |s: u8| -> f32 {
        let scale = e8m0(s);
        let square = |v: f32| ((v / scale - E2M1[usize::from(mxfp4_nibble(v / scale))]) * scale).powi(2);
        group.iter().zip(w).map(|(&v, w)| w * square(v)).sum()
    };
    let candidates = [first(top), first(top) + 1, first(other), first(other) + 1];
    let candidates = &candidates[..if first(other) == first(top) { 2 } else { 4 }];
    let mut best = (candidates[0], error(candidates[0]));
    for (s, error) in candidates[1..].iter().map(|&s| (s, error(s))) {
        if error < best.1 {
            best = (s, error);
        }
    }
    best.0
}

/// The nearest value of the grid, ties to the even mantissa.
pub(super) fn mxfp4_nibble(x: f32) -> u8 {
    // Halfway between neighbours; an odd mantissa gives way on both sides.
    const BETWEEN: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let a = x.abs();
    let n = BETWEEN.iter().enumerate().filter(|&(i, &b)| a > b || (a == b && i % 2 == 1)).count() as u8;
    n | u8::from(x.is_sign_negative() && n > 0) << 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Layout, Matrix, encode_panels};
    use proptest::prelude::*;

    /// `Σ importance · (x - x̂)²` over a row, as it is read back.
    fn weighted_error(codec: Codec, x: &[f32], importance: &[f32], used: Option<&[f32]>) -> f64 {
        let layout = Layout::new(codec, 1, x.len()).expect("small");
        let mut bytes = vec![0; layout.bytes()];
        let (words, scales) = bytes.split_at_mut(layout.scales_at());
        encode_panels(codec, x.len(), x, used, words, scales);
        let mut row = vec![0.0; x.len()];
        Matrix::new(layout, &bytes).expect("sized").row(0, &mut row);
        x.iter().zip(row).zip(importance).map(|((a, b), w)| f64::from(*w) * f64::from(a - b).powi(2)).sum()
    }

    /// Values of very different size, so that some are worth clipping.
    fn values() -> impl Strategy<Value = f32> {
        (-1f32..1.0, 0i32..12).prop_map(|(x, e)| x * 2f32.powi(-e))
    }

    proptest! {
        #[test]
        fn importance_never_makes_the_weighted_error_larger(
            columns in proptest::collection::vec((values(), prop_oneof![Just(0f32), 0f32..1.0, 0f32..1e6]), 1..100),
        ) {
            let (x, w): (Vec<f32>, Vec<f32>) = columns.into_iter().unzip();
            for codec in [Codec::Q8, Codec::Q4, Codec::Mxfp4] {
                let (plain, aware) = (weighted_error(codec, &x, &w, None), weighted_error(codec, &x, &w, Some(&w)));
                // Sums in another order.
                prop_assert!(aware <= plain * (1.0 + 1e-5), "{codec}: {aware} after {plain}");
            }
        }
    }

    #[test]
    fn what_is_multiplied_with_nothing_is_clipped_to_the_profit_of_the_rest() {
        let x: Vec<f32> = (0..GROUP).map(|i| if i == 3 { 1.0 } else { 0.01 * (i as f32 * 0.7).sin() }).collect();
        let w: Vec<f32> = (0..GROUP).map(|i| if i == 3 { 0.0 } else { 1.0 }).collect();
        for (codec, gain) in [(Codec::Q4, 1.5), (Codec::Mxfp4, 1.05)] {
            let (plain, aware) = (weighted_error(codec, &x, &w, None), weighted_error(codec, &x, &w, Some(&w)));
            assert!(aware * gain < plain, "{codec}: {aware} after {plain}");
        }
    }

    #[test]
    fn useless_importance_changes_nothing() {
        let x: Vec<f32> = (0..GROUP).map(|i| (i as f32 * 0.37).cos()).collect();
        let group: [f32; GROUP] = x.try_into().expect("32");
        for w in [[0.0; GROUP], [f32::NAN; GROUP], [f32::INFINITY; GROUP]] {
            assert_eq!(Grid::Q4.scale(&group, Some(&w)), Grid::Q4.scale(&group, None));
            assert_eq!(Grid::Q8.scale(&group, Some(&w)), Grid::Q8.scale(&group, None));
            assert_eq!(mxfp4_scale(&group, Some(&w)), mxfp4_scale(&group, None), "{w:?}");
        }
    }
}

//! Writing matrices: packing into panels and rounding to the codec's grid.

use half::{bf16, f16};

use super::{Codec, E2M1, GROUP, LINE, Layout, PANEL, e8m0};

/// Stores row-major `x` (`rows × cols`) into `out` (`layout.bytes()` bytes), padding included.
///
/// Quantised scales minimise the squared error of their group over a small set of candidates.
///
/// # Panics
/// When a slice is shorter than the layout says; both come from the same [`Layout`].
pub fn encode(layout: Layout, x: &[f32], out: &mut [u8]) {
    let out = &mut out[..layout.bytes()];
    out.fill(0);
    let (words, scales) = out.split_at_mut(layout.scales_at());
    encode_panels(layout.codec, layout.cols, &x[..layout.rows * layout.cols], words, scales);
}

/// Stores whole panels of a matrix: row-major `x`, any number of rows of `cols` values, into the words and scales of the panels those
/// rows fill. Large matrices are encoded piece by piece, or by several threads.
///
/// # Panics
/// When `words` or `scales` is shorter than the panels.
pub fn encode_panels(codec: Codec, cols: usize, x: &[f32], words: &mut [u8], scales: &mut [u8]) {
    let layout = Layout { codec, rows: x.len() / cols, cols };
    let (panel_bytes, scale_bytes) = (layout.panel_bytes(), layout.panel_scale_bytes());
    for (p, rows) in x.chunks(PANEL * cols).enumerate() {
        let words = &mut words[p * panel_bytes..][..panel_bytes];
        let scales = &mut scales[p * scale_bytes..][..scale_bytes];
        words.fill(0);
        scales.fill(0);
        rows.chunks_exact(cols).enumerate().for_each(|(lane, row)| encode_row(codec, lane, row, words, scales));
    }
}

/// Stores one row as lane `lane` of its panel.
fn encode_row(codec: Codec, lane: usize, row: &[f32], words: &mut [u8], scales: &mut [u8]) {
    let mut group = [0.0; GROUP];
    for (g, values) in row.chunks(GROUP).enumerate() {
        group.fill(0.0);
        group[..values.len()].copy_from_slice(values);
        let lines = &mut words[g * GROUP / codec.columns_per_word() * LINE..];
        match codec {
            Codec::F32 => put(lines, lane, group.iter().map(|v| v.to_le_bytes())),
            Codec::F16 => put(lines, lane, group.chunks(2).map(|p| pair(p, |v| f16::from_f32(v).to_le_bytes()))),
            Codec::Bf16 => put(lines, lane, group.chunks(2).map(|p| pair(p, |v| bf16::from_f32(v).to_le_bytes()))),
            Codec::Q8 => {
                let scale = q8_scale(&group);
                let q = quanta(&group, scale, -127.0, 127.0).map(|q| (q as i8).to_le_bytes()[0]);
                put(lines, lane, q.chunks(4).map(|b| [b[0], b[1], b[2], b[3]]));
                put_scale(scales, g, lane, scale);
            }
            Codec::Q4 => {
                let scale = q4_scale(&group);
                // As stored: 0..=15 for -8..=7.
                let q = quanta(&group, scale, -8.0, 7.0).map(|q| (q + 8.0) as u8);
                put(lines, lane, nibbles(&q));
                put_scale(scales, g, lane, scale);
            }
            Codec::Mxfp4 => {
                let scale = mxfp4_scale(&group);
                let q = group.map(|v| mxfp4_nibble(v / e8m0(scale)));
                put(lines, lane, nibbles(&q));
                scales[g * PANEL + lane] = scale;
            }
        }
    }
}

/// Eight columns in one word.
fn nibbles(q: &[u8; GROUP]) -> impl Iterator<Item = [u8; 4]> {
    q.chunks(8).map(|n| std::array::from_fn(|b| n[b] | n[4 + b] << 4))
}

/// Two columns in one word, the even one in the low half.
fn pair(p: &[f32], to: impl Fn(f32) -> [u8; 2]) -> [u8; 4] {
    let (a, b) = (to(p[0]), to(p[1]));
    [a[0], a[1], b[0], b[1]]
}

/// Writes one word per line into `lane`.
fn put(lines: &mut [u8], lane: usize, words: impl Iterator<Item = [u8; 4]>) {
    for (line, word) in lines.chunks_mut(LINE).zip(words) {
        line[lane * 4..][..4].copy_from_slice(&word);
    }
}

fn put_scale(scales: &mut [u8], g: usize, lane: usize, scale: f16) {
    scales[(g * PANEL + lane) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
}

/// The nearest multiples of `scale`, as multiples, within the bounds; all zero for a zero scale.
fn quanta(group: &[f32; GROUP], scale: f16, low: f32, high: f32) -> [f32; GROUP] {
    let s = scale.to_f32();
    let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
    group.map(|v| round((v * inverse).clamp(low, high)))
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

fn q8_scale(group: &[f32; GROUP]) -> f16 {
    storable(group.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0)
}

/// The scale with the least squared error among a few ways to cut the group.
///
/// The extreme value goes near -8 (negative scales reach both signs): a little beyond, so that it is clipped to the profit of the others,
/// or a little before. Each cut's own best scale follows in closed form, so five cuts do as well as a fine search.
fn q4_scale(group: &[f32; GROUP]) -> f16 {
    let extreme = group.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a });
    if extreme == 0.0 || !extreme.is_finite() {
        return f16::ZERO;
    }
    let mut best = (0.0, 1.0);
    for position in [-8.8, -8.325, -7.85, -7.375, -6.9] {
        // The error of the best scale xq / qq is Σ x² - xq² / qq.
        let (xq, qq) = q4_products(group, position / extreme);
        if xq * xq * best.1 > best.0 * best.0 * qq {
            best = (xq, qq);
        }
    }
    storable(best.0 / best.1)
}

/// `(Σ x · q, Σ q²)` for the quanta of the group at this inverse scale.
fn q4_products(group: &[f32; GROUP], inverse: f32) -> (f32, f32) {
    // Eight running sums, so that the additions need not wait for each other.
    let (mut xq, mut qq) = ([0.0; 8], [0.0; 8]);
    for x in group.chunks_exact(8) {
        for i in 0..8 {
            let q = round((x[i] * inverse).clamp(-8.0, 7.0));
            xq[i] += x[i] * q;
            qq[i] += q * q;
        }
    }
    (xq.iter().sum(), qq.iter().sum())
}

/// The power of two with the least squared error: the one that puts the largest value between 4 and 8, or the next. What is already on the
/// grid of some scale is on that of the first.
fn mxfp4_scale(group: &[f32; GROUP]) -> u8 {
    let top = group.iter().fold(0f32, |a, v| a.max(v.abs()));
    if top == 0.0 || !top.is_finite() {
        return 0;
    }
    // Exponents of subnormal numbers count as the smallest normal one.
    let exponent = (top.to_bits() >> 23) as i32;
    let first = (exponent - 2).clamp(0, 253) as u8;
    let error = |s: u8| -> f32 {
        let scale = e8m0(s);
        group.iter().map(|v| (v / scale - E2M1[usize::from(mxfp4_nibble(v / scale))]) * scale).map(|d| d * d).sum()
    };
    if error(first + 1) < error(first) { first + 1 } else { first }
}

/// The nearest value of the grid, ties to the even mantissa.
fn mxfp4_nibble(x: f32) -> u8 {
    // Halfway between neighbours; an odd mantissa gives way on both sides.
    const BETWEEN: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let a = x.abs();
    let n = BETWEEN.iter().enumerate().filter(|&(i, &b)| a > b || (a == b && i % 2 == 1)).count() as u8;
    n | u8::from(x.is_sign_negative() && n > 0) << 3
}

//! Writing matrices: packing into panels and rounding to the codec's grid.

use half::{bf16, f16};

use super::{Codec, GROUP, LINE, Layout, PANEL};

/// Stores row-major `x` (`rows × cols`) into `out` (`layout.bytes()` bytes), padding included.
///
/// Quantised scales minimise the squared error of their group over a small set of candidates.
///
/// # Panics
/// When a slice is shorter than the layout says; both come from the same [`Layout`].
pub fn encode(layout: Layout, x: &[f32], out: &mut [u8]) {
    let Layout { codec, rows, cols } = layout;
    let out = &mut out[..layout.bytes()];
    out.fill(0);
    let (words, scales) = out.split_at_mut(layout.scales_at());
    let mut group = [0.0; GROUP];
    for r in 0..rows {
        let row = &x[r * cols..][..cols];
        let (panel, lane) = (r / PANEL, r % PANEL);
        let words = &mut words[panel * layout.panel_bytes()..][..layout.panel_bytes()];
        let scales = &mut scales[panel * layout.panel_scale_bytes()..][..layout.panel_scale_bytes()];
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
                    let q = group.map(|v| quantum(v, scale, 127.0).to_le_bytes()[0]);
                    put(lines, lane, q.chunks(4).map(|b| [b[0], b[1], b[2], b[3]]));
                    put_scale(scales, g, lane, scale);
                }
                Codec::Q4 => {
                    let scale = q4_scale(&group);
                    let q = group.map(|v| q4_quantum(v, scale));
                    put(lines, lane, q.chunks(8).map(|n| std::array::from_fn(|b| n[b] | n[4 + b] << 4)));
                    put_scale(scales, g, lane, scale);
                }
            }
        }
    }
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

/// The nearest multiple of `scale`, within `±top`.
fn quantum(v: f32, scale: f16, top: f32) -> i8 {
    let s = scale.to_f32();
    if s == 0.0 { 0 } else { (v / s).round().clamp(-top, top) as i8 }
}

/// As stored: 0..=15 for -8..=7.
fn q4_quantum(v: f32, scale: f16) -> u8 {
    let s = scale.to_f32();
    if s == 0.0 { 8 } else { ((v / s).round().clamp(-8.0, 7.0) + 8.0) as u8 }
}

/// Half precision, away from zero where rounding would lose the group and below infinity.
fn storable(scale: f32) -> f16 {
    f16::from_f32(scale.clamp(-65504.0, 65504.0))
}

fn q8_scale(group: &[f32; GROUP]) -> f16 {
    storable(group.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0)
}

/// The candidate with the least squared error. The extreme value may sit at -8 (negative scales reach both signs) or, shrunk,
/// be clipped a little to the profit of the others.
fn q4_scale(group: &[f32; GROUP]) -> f16 {
    let extreme = group.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a });
    if extreme == 0.0 || !extreme.is_finite() {
        return f16::ZERO;
    }
    let mut best = (f32::INFINITY, f16::ZERO);
    for step in 0..16 {
        let candidate = storable(extreme / (-8.6 + 0.12 * step as f32));
        let s = candidate.to_f32();
        let error: f32 = group.iter().map(|&v| (v - (f32::from(q4_quantum(v, candidate)) - 8.0) * s).powi(2)).sum();
        if error < best.0 {
            best = (error, candidate);
        }
    }
    best.1
}

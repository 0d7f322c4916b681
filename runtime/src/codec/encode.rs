//! Writing matrices: packing into panels and rounding to the codec's grid.

use half::{bf16, f16};

use super::scale::{Grid, mxfp4_nibble, mxfp4_scale};
use super::{Codec, GROUP, LINE, Layout, PANEL, e8m0};

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
    encode_panels(layout.codec, layout.cols, &x[..layout.rows * layout.cols], None, words, scales);
}

/// Stores whole panels of a matrix: row-major `x`, any number of rows of `cols` values, into the words and scales of the panels those
/// rows fill. Large matrices are encoded piece by piece, or by several threads.
///
/// `importance` is a weight for each column, the mean square of what the column is multiplied with: scales then minimise
/// `Σ importance · error²`, and never make more of it than they would without.
///
/// # Panics
/// When `words` or `scales` is shorter than the panels, or there are fewer than `cols` weights.
pub fn encode_panels(codec: Codec, cols: usize, x: &[f32], importance: Option<&[f32]>, words: &mut [u8], scales: &mut [u8]) {
    let layout = Layout { codec, rows: x.len() / cols, cols };
    let (panel_bytes, scale_bytes) = (layout.panel_bytes(), layout.panel_scale_bytes());
    for (p, rows) in x.chunks(PANEL * cols).enumerate() {
        let words = &mut words[p * panel_bytes..][..panel_bytes];
        let scales = &mut scales[p * scale_bytes..][..scale_bytes];
        words.fill(0);
        scales.fill(0);
        rows.chunks_exact(cols).enumerate().for_each(|(lane, row)| encode_row(codec, lane, row, importance, words, scales));
    }
}

/// Stores one row as lane `lane` of its panel.
fn encode_row(codec: Codec, lane: usize, row: &[f32], importance: Option<&[f32]>, words: &mut [u8], scales: &mut [u8]) {
    for (g, values) in row.chunks(GROUP).enumerate() {
        let group = padded(values);
        let importance = importance.map(|i| padded(&i[g * GROUP..][..values.len()]));
        let lines = &mut words[g * GROUP / codec.columns_per_word() * LINE..];
        match codec {
            Codec::F32 => put(lines, lane, group.iter().map(|v| v.to_le_bytes())),
            Codec::F16 => put(lines, lane, group.chunks(2).map(|p| pair(p, |v| f16::from_f32(v).to_le_bytes()))),
            Codec::Bf16 => put(lines, lane, group.chunks(2).map(|p| pair(p, |v| bf16::from_f32(v).to_le_bytes()))),
            Codec::Q8 => {
                let scale = Grid::Q8.scale(&group, importance.as_ref());
                let q = Grid::Q8.quanta(&group, scale).map(|q| (q as i8).to_le_bytes()[0]);
                put(lines, lane, q.chunks(4).map(|b| [b[0], b[1], b[2], b[3]]));
                put_scale(scales, g, lane, scale);
            }
            Codec::Q4 => {
                let scale = Grid::Q4.scale(&group, importance.as_ref());
                // As stored: 0..=15 for -8..=7.
                let q = Grid::Q4.quanta(&group, scale).map(|q| (q + 8.0) as u8);
                put(lines, lane, nibbles(&q));
                put_scale(scales, g, lane, scale);
            }
            Codec::Mxfp4 => {
                let scale = mxfp4_scale(&group, importance.as_ref());
                let q = group.map(|v| mxfp4_nibble(v / e8m0(scale)));
                put(lines, lane, nibbles(&q));
                scales[g * PANEL + lane] = scale;
            }
        }
    }
}

/// A group whose last columns may be missing.
fn padded(values: &[f32]) -> [f32; GROUP] {
    let mut group = [0.0; GROUP];
    group[..values.len()].copy_from_slice(values);
    group
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

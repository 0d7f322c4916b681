//! Reading stored matrices back: the plain definition of every codec, which all kernels are tested against.

use std::ops::Range;

use half::{bf16, f16};

use super::{Codec, E2M1, GROUP, LINE, Layout, PANEL, e8m0};

/// A stored matrix, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// `layout.bytes()` bytes.
    bytes: &'a [u8],
    layout: Layout,
}

impl<'a> Matrix<'a> {
    /// Wraps `bytes`; `None` when their number is not what the layout asks for.
    pub fn new(layout: Layout, bytes: &'a [u8]) -> Option<Matrix<'a>> {
        (bytes.len() == layout.bytes()).then_some(Matrix { bytes, layout })
    }

    /// Shape and codec.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All of it, padding included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The words of panel `p`: `layout.lines()` lines of 64 bytes.
    pub fn words(&self, p: usize) -> &'a [u8] {
        &self.bytes[p * self.layout.panel_bytes()..][..self.layout.panel_bytes()]
    }

    /// The scales of panel `p`: for each group 16, as bytes. Empty without scales.
    pub fn scales(&self, p: usize) -> &'a [u8] {
        let n = self.layout.panel_scale_bytes();
        &self.bytes[self.layout.scales_at() + p * n..][..n]
    }

    /// Words and scales of consecutive panels, for copying.
    pub fn panels(&self, range: Range<usize>) -> (&'a [u8], &'a [u8]) {
        let (words, scales) = (self.layout.panel_bytes(), self.layout.panel_scale_bytes());
        let at = self.layout.scales_at();
        (&self.bytes[range.start * words..range.end * words], &self.bytes[at + range.start * scales..at + range.end * scales])
    }

    /// Decodes row `r` into `out` (`layout.cols` values).
    pub fn row(&self, r: usize, out: &mut [f32]) {
        let (words, scales) = (self.words(r / PANEL), self.scales(r / PANEL));
        let (lane, per_word) = (r % PANEL, self.layout.codec.columns_per_word());
        for (c, y) in out[..self.layout.cols].iter_mut().enumerate() {
            let at = (c / per_word) * LINE + lane * 4;
            let word = [words[at], words[at + 1], words[at + 2], words[at + 3]];
            let scale = || {
                let at = ((c / GROUP) * PANEL + lane) * 2;
                f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32()
            };
            *y = match self.layout.codec {
                Codec::F32 => f32::from_le_bytes(word),
                Codec::F16 => f16::from_le_bytes([word[c % 2 * 2], word[c % 2 * 2 + 1]]).to_f32(),
                Codec::Bf16 => bf16::from_le_bytes([word[c % 2 * 2], word[c % 2 * 2 + 1]]).to_f32(),
                Codec::Q8 => f32::from(i8::from_le_bytes([word[c % 4]])) * scale(),
                Codec::Q4 => (f32::from(nibble(word, c)) - 8.0) * scale(),
                Codec::Mxfp4 => E2M1[usize::from(nibble(word, c))] * e8m0(scales[(c / GROUP) * PANEL + lane]),
            };
        }
    }
}

/// Column `c` of a row's word of eight.
fn nibble(word: [u8; 4], c: usize) -> u8 {
    let byte = word[c % 4];
    if c % 8 < 4 { byte & 15 } else { byte >> 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use proptest::prelude::*;

    fn values(rows: usize, cols: usize, seed: u32) -> Vec<f32> {
        let mut s = seed | 1;
        (0..rows * cols)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    proptest! {
        /// Every codec gives back what was stored, to the precision it promises, whatever the shape.
        #[test]
        fn round_trip(rows in 1usize..50, cols in 1usize..100, seed: u32) {
            let x = values(rows, cols, seed);
            for codec in Codec::ALL {
                let layout = Layout::new(codec, rows, cols).expect("small");
                let mut bytes = vec![0xAA; layout.bytes()];
                encode(layout, &x, &mut bytes);
                let m = Matrix::new(layout, &bytes).expect("sized");
                let mut row = vec![0.0; cols];
                for r in 0..rows {
                    m.row(r, &mut row);
                    for (g, (got, want)) in row.chunks(GROUP).zip(x[r * cols..][..cols].chunks(GROUP)).enumerate() {
                        let top = want.iter().fold(0f32, |a, v| a.max(v.abs()));
                        let tolerance = match codec {
                            Codec::F32 => 0.0,
                            Codec::F16 => top / 1024.0,
                            Codec::Bf16 => top / 128.0,
                            // Half a step, and 127 times that of a scale too small to be a normal f16.
                            Codec::Q8 => top / 200.0 + 127.0 * f32::from(f16::MIN_POSITIVE_SUBNORMAL) / 2.0,
                            // The smallest candidate scale clips the side opposite to the extreme at 7/8.6.
                            Codec::Q4 => top / 5.0,
                            // The largest steps are a third of the largest value, which may itself lie a third above it.
                            Codec::Mxfp4 => top / 4.0,
                        };
                        for (a, b) in got.iter().zip(want) {
                            prop_assert!((a - b).abs() <= tolerance, "{codec} row {r} group {g}: {a} for {b}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn layout_refuses_empty_and_absurd() {
        assert!(Layout::new(Codec::Q4, 0, 4).is_none());
        assert!(Layout::new(Codec::F32, usize::MAX, 4).is_none());
        assert!(Layout::new(Codec::F32, 1 << 30, 1 << 30).is_none());
    }

    #[test]
    fn sizes() {
        for (codec, bytes) in
            [(Codec::F32, 4096), (Codec::F16, 2048), (Codec::Q8, 1024 + 256), (Codec::Q4, 512 + 256), (Codec::Mxfp4, 512 + 256)]
        {
            assert_eq!(Layout::new(codec, 16, 64).map(|l| l.bytes()), Some(bytes), "{codec}");
        }
    }

    #[test]
    fn mxfp4_keeps_what_is_on_its_grid() {
        for scale in [0u8, 1, 100, 127, 200, 250] {
            for top in 1..8 {
                let values: Vec<f32> =
                    (0..GROUP).map(|i| E2M1[(i * 5 + 3) % (top + 1)] * if i % 3 == 0 { -1.0 } else { 1.0 } * e8m0(scale)).collect();
                let layout = Layout::new(Codec::Mxfp4, 1, GROUP).expect("small");
                let mut bytes = vec![0; layout.bytes()];
                encode(layout, &values, &mut bytes);
                let mut row = vec![0.0; GROUP];
                Matrix::new(layout, &bytes).expect("sized").row(0, &mut row);
                assert_eq!(row, values, "scale {scale}, up to {}", E2M1[top]);
            }
        }
    }
}

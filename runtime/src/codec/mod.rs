//! How matrices are stored: the *panel* layout that every kernel, on every device, reads in place.
//!
//! A matrix `[rows, cols]` is cut into panels of [`PANEL`] = 16 rows. A panel is a sequence of 64-byte *lines*; a line has one
//! 32-bit little-endian word for each of the 16 rows, and a word packs 1, 2, 4 or 8 consecutive columns of that row:
//!
//! | codec | columns in a word | word |
//! |---|---|---|
//! | f32 | 1 | the value |
//! | f16, bf16 | 2 | even column in the low half |
//! | q8 | 4 | byte `b` = column `b` as `i8`, value `q · scale` |
//! | q4 | 8 | low nibble of byte `b` = column `b`, high nibble = column `4 + b`, value `(n - 8) · scale` |
//! | mxfp4 | 8 | nibbles as in q4, value [`E2M1`]`[n] · scale` |
//!
//! So one 16-byte load gives four rows of the same columns, a 64-byte load gives one SIMD lane to each of sixteen rows (no horizontal
//! sums anywhere), and neighbouring GPU lanes read neighbouring bytes. Quantised codecs have one scale for each row and
//! [`GROUP`] = 32 columns, in a plane of its own behind the words: for each panel and group, 16 scales, each an f16 or, for mxfp4, a byte
//! `s` that means `2^(s - 127)`.
//!
//! Rows are padded to a multiple of 16 and columns to a multiple of 32; padding decodes to zero (quantised groups: zero scale).

mod decode;
mod encode;
mod scale;

use serde::{Deserialize, Serialize};

pub use decode::Matrix;
pub use encode::{encode, encode_panels};

/// Rows in a panel.
pub const PANEL: usize = 16;
/// Columns that share a scale.
pub const GROUP: usize = 32;
/// Bytes in a line: one word for each row of a panel.
pub const LINE: usize = 4 * PANEL;
/// Planes start at multiples of this many bytes.
pub const ALIGN: usize = 256;

/// Element format of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// Symmetric 8 bit, 8.5 bits per weight with scales.
    Q8,
    /// Symmetric 4 bit, 4.5 bits per weight with scales.
    Q4,
    /// Microscaling 4-bit floats of the Open Compute Project, 4.25 bits per weight with scales; blocks published so keep their values.
    Mxfp4,
}

/// The values of an mxfp4 nibble before its scale: sign, two bits of exponent, one of mantissa.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The scale that an mxfp4 byte means, `2^(s - 127)`; 255 is not a number.
pub const fn e8m0(s: u8) -> f32 {
    match s {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((s as u32) << 23),
    }
}

impl Codec {
    /// Every codec, most precise first.
    pub const ALL: [Codec; 6] = [Codec::F32, Codec::F16, Codec::Bf16, Codec::Q8, Codec::Q4, Codec::Mxfp4];

    /// Columns that one 32-bit word holds.
    pub const fn columns_per_word(self) -> usize {
        match self {
            Codec::F32 => 1,
            Codec::F16 | Codec::Bf16 => 2,
            Codec::Q8 => 4,
            Codec::Q4 | Codec::Mxfp4 => 8,
        }
    }

    /// Whether there is a plane of scales.
    pub const fn has_scales(self) -> bool {
        self.scale_bytes() > 0
    }

    /// Bytes of one scale; zero without scales.
    pub const fn scale_bytes(self) -> usize {
        match self {
            Codec::F32 | Codec::F16 | Codec::Bf16 => 0,
            Codec::Q8 | Codec::Q4 => 2,
            Codec::Mxfp4 => 1,
        }
    }

    /// Bits that a weight takes, scales included, padding not.
    pub const fn bits_per_weight(self) -> f64 {
        32.0 / self.columns_per_word() as f64 + 8.0 * self.scale_bytes() as f64 / GROUP as f64
    }

    /// The name used in manifests and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::F32 => "f32",
            Codec::F16 => "f16",
            Codec::Bf16 => "bf16",
            Codec::Q8 => "q8",
            Codec::Q4 => "q4",
            Codec::Mxfp4 => "mxfp4",
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Codec {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Codec::ALL
            .into_iter()
            .find(|c| c.name() == s)
            .ok_or_else(|| format!("unknown codec {s:?}; use one of {}", Codec::ALL.map(Codec::name).join(", ")))
    }
}

/// Where the parts of one stored matrix are. Sizes in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Element format.
    pub codec: Codec,
    /// Rows that mean something.
    pub rows: usize,
    /// Columns that mean something.
    pub cols: usize,
}

impl Layout {
    /// The layout of a `[rows, cols]` matrix; `None` when it is empty or its size does not fit 2⁴⁰ bytes.
    pub fn new(codec: Codec, rows: usize, cols: usize) -> Option<Layout> {
        let limit = 1usize << 40;
        let fits = rows.checked_next_multiple_of(PANEL)?.checked_mul(cols.checked_next_multiple_of(GROUP)?)? <= limit / 8;
        (rows > 0 && cols > 0 && fits).then_some(Layout { codec, rows, cols })
    }

    /// Panels of 16 rows, the last one padded.
    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Columns including padding.
    pub const fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(GROUP)
    }

    /// Lines of a panel.
    pub const fn lines(&self) -> usize {
        self.padded_cols() / self.codec.columns_per_word()
    }

    /// Groups of 32 columns in a row.
    pub const fn groups(&self) -> usize {
        self.padded_cols() / GROUP
    }

    /// Bytes of the word plane of one panel.
    pub const fn panel_bytes(&self) -> usize {
        self.lines() * LINE
    }

    /// Where the scale plane begins; also the padded length of the word plane.
    pub const fn scales_at(&self) -> usize {
        (self.panels() * self.panel_bytes()).next_multiple_of(ALIGN)
    }

    /// Bytes of the scales of one panel; zero without scales.
    pub const fn panel_scale_bytes(&self) -> usize {
        self.groups() * PANEL * self.codec.scale_bytes()
    }

    /// Length of the stored matrix, a multiple of [`ALIGN`].
    pub const fn bytes(&self) -> usize {
        self.scales_at() + (self.panels() * self.panel_scale_bytes()).next_multiple_of(ALIGN)
    }
}

//! Random weights, drawn straight in panel layout.

use half::f16;
use hotset::codec::{Codec, Layout};

use crate::random::Random;

/// Fills a stored matrix with weights of mean zero and about the given standard deviation.
///
/// Random bits serve as weights once the bits that decide the magnitude are fixed: the exponent of floats (which leaves ±[1, 2) times a power
/// of two), nothing for integers. The mean of -½ of two's complement would point every matrix in one direction and let the layers
/// amplify it until all tokens look alike; scales of random sign cancel it.
pub(super) fn fill(layout: Layout, deviation: f32, random: &mut Random, out: &mut [u8]) {
    let power = power(deviation);
    let (mask, fixed, step) = match layout.codec {
        Codec::F32 => (0x807F_FFFF_807F_FFFF, u64::from(power.to_bits()) * 0x1_0000_0001, 0.0),
        Codec::Bf16 => (0x807F_807F_807F_807F, u64::from(power.to_bits() >> 16) * REPEAT, 0.0),
        Codec::F16 => (0x83FF_83FF_83FF_83FF, u64::from(f16::from_f32(power).to_bits()) * REPEAT, 0.0),
        // Integers -128..=127 and -8..=7, uniformly.
        Codec::Q8 => (u64::MAX, 0, deviation / 73.9),
        Codec::Q4 => (u64::MAX, 0, deviation / 4.61),
        Codec::Mxfp4 => (u64::MAX, 0, deviation / 2.93),
    };
    let (words, scales) = out.split_at_mut(layout.scales_at());
    random.fill(words, mask, fixed);
    match layout.codec {
        // The exponent of the power of two below.
        Codec::Mxfp4 => scales.fill((step.to_bits() >> 23) as u8),
        _ => random.fill(scales, 0x8000_8000_8000_8000, u64::from(f16::from_f32(step).to_bits()) * REPEAT),
    }
}

/// Standard deviation of `±[1, 2)`, uniformly: `√(7/3)`.
const FLOAT: f32 = 1.527_525_2;

/// The power of two that floats are multiplied by.
fn power(deviation: f32) -> f32 {
    (deviation / FLOAT).log2().round().exp2()
}

/// The standard deviation that floats really have where this one is asked for.
pub(super) fn float_deviation(deviation: f32) -> f32 {
    power(deviation) * FLOAT
}

/// Repeats 16 bits four times.
const REPEAT: u64 = 0x0001_0001_0001_0001;

impl Random {
    /// Random bits where `mask` is set, `fixed` elsewhere. Planes are multiples of 8 bytes long.
    fn fill(&mut self, out: &mut [u8], mask: u64, fixed: u64) {
        for chunk in out.chunks_exact_mut(8) {
            chunk.copy_from_slice(&(self.next() & mask | fixed).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;
    use hotset::codec::{Matrix, PANEL};

    #[test]
    fn weights_have_the_deviation_asked_for_in_every_codec() {
        for codec in Codec::ALL {
            let layout = Layout::new(codec, 4 * PANEL, 256).unwrap();
            let mut bytes = vec![0; layout.bytes()];
            fill(layout, 0.05, &mut Random(7), &mut bytes);
            let (matrix, mut row, mut all) = (Matrix::new(layout, &bytes).unwrap(), vec![0.0; layout.cols], Vec::new());
            for r in 0..layout.rows {
                matrix.row(r, &mut row);
                all.extend_from_slice(&row);
            }
            let n = all.len() as f32;
            let mean = all.iter().sum::<f32>() / n;
            let deviation = (all.iter().map(|x| x * x).sum::<f32>() / n).sqrt();
            assert!(mean.abs() < 0.002, "{codec}: mean {mean}");
            assert!((0.035..0.071).contains(&deviation), "{codec}: deviation {deviation}");
            if matches!(codec, Codec::F32 | Codec::F16 | Codec::Bf16) {
                assert!((deviation / float_deviation(0.05) - 1.0).abs() < 0.02, "{codec}: deviation {deviation}");
            }
        }
    }
}

//! Rotary position encodings.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Rotary position encoding, half-split: element `i` of the first half turns with element `i` of the second by
/// `position * frequencies[i]`. Scaling schemes are nothing but other frequencies, so they live in importers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Radians per position, one for each pair; `2 * len` leading elements of a head are rotated (of a latent row: the last ones).
    pub frequencies: Vec<f32>,
    /// Multiplier of sine and cosine (YaRN's attention factor); 1 ordinarily.
    pub amplitude: f32,
    /// What applies instead to long conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
}

/// A rotation for conversations that may become longer than `after` positions. Which of the two applies is decided once, by the room a
/// conversation is given, so that cached keys stay comparable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Beyond {
    /// Other frequencies (LongRoPE).
    Other {
        /// The longest conversation that the ordinary frequencies serve.
        after: u32,
        /// Radians per position, as many as the ordinary ones.
        frequencies: Vec<f32>,
        /// Multiplier of sine and cosine.
        amplitude: f32,
    },
    /// The base grows with the room `n`, as dynamic NTK scaling does: frequency `i` of `p` becomes
    /// `(base * (factor * n / after - (factor - 1))^(p / (p - 1)))^(-i / p)`.
    Growing {
        /// The longest conversation that the ordinary frequencies serve.
        after: u32,
        /// Base of the ordinary frequencies.
        base: f32,
        /// How fast the base grows.
        factor: f32,
    },
}

impl Rotation {
    /// The same for every conversation.
    pub fn new(frequencies: Vec<f32>, amplitude: f32) -> Rotation {
        Rotation { frequencies, amplitude, beyond: None }
    }

    /// Frequencies and amplitude for conversations of at most `context` positions.
    pub fn for_context(&self, context: usize) -> (Cow<'_, [f32]>, f32) {
        let ordinary = (Cow::Borrowed(&self.frequencies[..]), self.amplitude);
        match &self.beyond {
            Some(Beyond::Other { after, frequencies, amplitude }) if context > *after as usize => (Cow::Borrowed(frequencies), *amplitude),
            Some(Beyond::Growing { after, base, factor }) if context > *after as usize => {
                let pairs = self.frequencies.len() as f64;
                let growth = f64::from(*factor) * context as f64 / f64::from(*after) - (f64::from(*factor) - 1.0);
                let base = f64::from(*base) * growth.powf(pairs / (pairs - 1.0));
                let frequency = |i: usize| 1.0 / base.powf(i as f64 / pairs) as f32;
                (Cow::Owned((0..self.frequencies.len()).map(frequency).collect()), self.amplitude)
            }
            _ => ordinary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_decides_which_frequencies_apply() {
        let other = Beyond::Other { after: 8, frequencies: vec![0.5, 0.1], amplitude: 1.2 };
        let r = Rotation { frequencies: vec![1.0, 0.2], amplitude: 1.0, beyond: Some(other) };
        assert_eq!(r.for_context(8), (Cow::Borrowed(&[1.0, 0.2][..]), 1.0));
        assert_eq!(r.for_context(9), (Cow::Borrowed(&[0.5, 0.1][..]), 1.2));
    }

    #[test]
    fn a_growing_base_starts_where_the_ordinary_one_ends() {
        let frequencies: Vec<f32> = (0..4).map(|i| 10_000f32.powf(-(i as f32) / 4.0)).collect();
        let r = Rotation { frequencies, amplitude: 1.0, beyond: Some(Beyond::Growing { after: 16, base: 10_000.0, factor: 2.0 }) };
        let (grown, _) = r.for_context(24);
        // factor · 24/16 − 1 = 2, to the power 8/6.
        let base = 10_000f64 * 2f64.powf(4.0 / 3.0);
        assert!((f64::from(grown[2]) - base.powf(-0.5)).abs() < 1e-9);
        assert_eq!(grown[0], 1.0);
    }
}

//! How the next token is chosen: the knobs.

use crate::error::{Error, Result};
use crate::model::MAX_CANDIDATES;

/// How the next token is chosen from the logits. Applied in this order:
///
/// 1. **repetition penalty**: logits of the last `repeat_last` tokens are divided by it when positive, multiplied when negative;
/// 2. **top-k**: the `top_k` largest logits stay;
/// 3. **temperature**: logits are divided by it, and become probabilities of what is left;
/// 4. **top-p**: the smallest set of likeliest tokens whose probabilities reach `top_p` stays;
/// 5. **min-p**: of these, tokens at least `min_p` times as likely as the likeliest stay;
/// 6. one is **drawn**. The draw is a function of `seed` and of how many tokens this generation has drawn: equal logits give an equal
///    text on every platform.
///
/// [`Default`] is greedy: the likeliest token, the lowest id among equals.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always; 1 samples from the model's own distribution.
    pub temperature: f32,
    /// 0 keeps all tokens. With 1 to 128 the vocabulary never leaves the device, which is fastest.
    pub top_k: usize,
    /// In (0, 1]; 1 keeps all tokens.
    pub top_p: f32,
    /// In [0, 1]; 0 keeps all tokens.
    pub min_p: f32,
    /// Larger than 0; 1 changes nothing, 1.1 is a usual value.
    pub repeat_penalty: f32,
    /// How many tokens at the end of the conversation, prompt included, the penalty looks at.
    pub repeat_last: usize,
    /// Chooses the sequence of draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last: 64, seed: 1 }
    }
}

impl Sampling {
    /// Checks every knob's range.
    ///
    /// # Errors
    /// Names the knob that is out of range.
    pub fn validate(&self) -> Result<()> {
        let ok = |holds: bool, what: &str| if holds { Ok(()) } else { Err(Error::Input(what.to_owned())) };
        ok(self.temperature >= 0.0 && self.temperature.is_finite(), "the temperature must be a number from 0 up")?;
        ok(self.top_p > 0.0 && self.top_p <= 1.0, "top-p must be larger than 0 and at most 1")?;
        ok((0.0..=1.0).contains(&self.min_p), "min-p must be between 0 and 1")?;
        ok(self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite(), "the repetition penalty must be larger than 0")
    }

    /// How many candidates decide the draw exactly; `None` when the whole vocabulary may be needed.
    pub(super) fn candidates(&self) -> Option<usize> {
        match self.top_k {
            _ if self.is_greedy() => Some(1),
            1..=MAX_CANDIDATES => Some(self.top_k),
            _ => None,
        }
    }

    /// Whether the likeliest token is taken always. Temperatures so small that dividing by them overflows count as 0.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature < 1e-6 || self.top_k == 1
    }
}

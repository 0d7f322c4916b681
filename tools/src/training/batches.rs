//! Windows of a token stream, several at a time.

use candle_core::{Device, Result, Tensor};

use crate::random::Random;

/// Windows of equal length: what a model reads, and what comes after each token.
pub(crate) struct Batch {
    /// Token ids `[B, T]`.
    pub(crate) inputs: Tensor,
    /// The tokens to predict `[B·T]`.
    pub(crate) targets: Tensor,
}

/// A token stream cut into windows. Where the model wants a beginning-of-sequence token, every window begins with it.
pub(crate) struct Batches<'a> {
    stream: &'a [u32],
    bos: Option<u32>,
    /// Tokens of a window, `T`.
    window: usize,
}

impl<'a> Batches<'a> {
    /// `None` when `stream` is shorter than one window.
    pub(crate) fn new(stream: &'a [u32], bos: Option<u32>, window: usize) -> Option<Batches<'a>> {
        let batches = Batches { stream, bos, window };
        (window > 0 && batches.tokens() <= stream.len()).then_some(batches)
    }

    /// Windows that begin `offset` tokens into the stream and then follow one another.
    fn starts(&self, offset: usize) -> Vec<usize> {
        (offset..=self.stream.len() - self.tokens()).step_by(self.window).collect()
    }

    /// Tokens of the stream that one window needs, its last target among them.
    fn tokens(&self) -> usize {
        self.window + usize::from(self.bos.is_none())
    }

    /// All windows in order, `batch` at a time; the last batch may have fewer. A rest shorter than a window is left out.
    pub(crate) fn in_order(&self, batch: usize) -> Result<Vec<Batch>> {
        self.starts(0).chunks(batch).map(|starts| self.at(starts)).collect()
    }

    /// `batch` windows at a time without end: every epoch cuts the stream elsewhere and shuffles the windows.
    pub(crate) fn shuffled(&self, batch: usize, mut random: Random) -> impl Iterator<Item = Result<Batch>> {
        let mut waiting = Vec::new();
        std::iter::from_fn(move || {
            while waiting.len() < batch {
                let spare = (self.stream.len() - self.tokens() + 1).min(self.window);
                let mut starts = self.starts(random.below(spare));
                random.shuffle(&mut starts);
                waiting.splice(0..0, starts);
            }
            Some(self.at(&waiting.split_off(waiting.len() - batch)))
        })
    }

    fn at(&self, starts: &[usize]) -> Result<Batch> {
        let (mut inputs, mut targets) = (Vec::<u32>::new(), Vec::<u32>::new());
        for &start in starts {
            let text = &self.stream[start..start + self.tokens()];
            inputs.extend(self.bos.iter().chain(text).take(self.window).copied());
            targets.extend_from_slice(&text[self.tokens() - self.window..]);
        }
        let inputs = Tensor::from_vec(inputs, (starts.len(), self.window), &Device::Cpu)?;
        let targets = Tensor::from_vec(targets, starts.len() * self.window, &Device::Cpu)?;
        Ok(Batch { inputs, targets })
    }
}

/// `batch` windows at a time without end, each from a text that is drawn by its share; each text as [`Batches::shuffled`] gives it.
pub(crate) fn mixed<'a>(texts: &'a [(Batches<'_>, f64)], batch: usize, mut random: Random) -> impl Iterator<Item = Result<Batch>> + 'a {
    let mut windows: Vec<_> = texts.iter().map(|(text, _)| text.shuffled(1, Random(random.next()))).collect();
    let total: f64 = texts.iter().map(|(_, share)| share).sum();
    std::iter::from_fn(move || {
        let mut drawn = || {
            let mut left = random.unit() * total;
            let reached = |(_, share): &(Batches<'_>, f64)| {
                left -= share;
                left < 0.0
            };
            let text = texts.iter().position(reached).unwrap_or(texts.len() - 1);
            windows[text].next()
        };
        Some((0..batch).filter_map(|_| drawn()).collect::<Result<Vec<_>>>().and_then(|parts| Batch::joined(&parts)))
    })
}

impl Batch {
    /// The windows of several batches.
    fn joined(parts: &[Batch]) -> Result<Batch> {
        let all = |tensor: fn(&Batch) -> &Tensor| Tensor::cat(&parts.iter().map(tensor).collect::<Vec<_>>(), 0);
        Ok(Batch { inputs: all(|b| &b.inputs)?, targets: all(|b| &b.targets)? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn rows(batch: &Batch) -> (Vec<Vec<u32>>, Vec<u32>) {
        (batch.inputs.to_vec2().unwrap(), batch.targets.to_vec1().unwrap())
    }

    #[test]
    fn windows_and_what_follows() {
        let stream: Vec<u32> = (10..20).collect();
        let with = Batches::new(&stream, Some(1), 3).unwrap().in_order(2).unwrap();
        assert_eq!(with.len(), 2, "the tenth token fills no window");
        assert_eq!(rows(&with[0]), (vec![vec![1, 10, 11], vec![1, 13, 14]], vec![10, 11, 12, 13, 14, 15]));
        let without = Batches::new(&stream, None, 3).unwrap().in_order(8).unwrap();
        assert_eq!(rows(&without[0]).0, [[10, 11, 12], [13, 14, 15], [16, 17, 18]]);
        assert_eq!(rows(&without[0]).1, (11..20).collect::<Vec<u32>>());
        assert!(Batches::new(&stream, None, 10).is_none(), "nothing follows the last token");
        assert_eq!(Batches::new(&stream, Some(1), 10).unwrap().in_order(1).unwrap().len(), 1);
    }

    #[test]
    fn an_epoch_visits_every_window_once() {
        let stream: Vec<u32> = (0..101).collect();
        let batches = Batches::new(&stream, None, 10).unwrap();
        let mut seen: Vec<u32> = batches.shuffled(3, Random(5)).take(3).flat_map(|b| rows(&b.unwrap()).1).collect();
        let in_order = seen.clone();
        seen.sort_unstable();
        assert_ne!(seen, in_order);
        seen.dedup();
        assert_eq!(seen.len(), 90, "no target twice");
        let again: Vec<u32> = batches.shuffled(3, Random(5)).take(3).flat_map(|b| rows(&b.unwrap()).1).collect();
        assert_eq!(again, in_order, "the seed decides");
    }

    #[test]
    fn texts_are_mixed_by_their_shares() {
        let (low, high): (Vec<u32>, Vec<u32>) = ((0..50).collect(), (100..150).collect());
        let texts = [(Batches::new(&low, None, 5).unwrap(), 3.0), (Batches::new(&high, None, 5).unwrap(), 1.0)];
        let windows: Vec<u32> = mixed(&texts, 4, Random(9)).take(100).flat_map(|b| rows(&b.unwrap()).0).map(|w| w[0]).collect();
        let share = windows.iter().filter(|w| **w < 100).count() as f64 / windows.len() as f64;
        assert!(windows.len() == 400 && (share - 0.75).abs() < 0.06, "{share}");
    }
}

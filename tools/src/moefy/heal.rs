//! Fine-tuning after the cut: all weights learn to predict the next token with what is left active.

use std::sync::atomic::{AtomicBool, Ordering};

use super::BALANCE;
use super::moe::Moe;
use super::shape::Shape;
use super::split::Split;
use crate::failure::{Failure, Result};
use crate::random::Random;
use crate::training::{Batch, Batches, Model, Optimiser, Schedule, Weights, cross_entropy, held_out};

/// How often the held-out loss is taken while healing.
const CHECKS: usize = 5;

/// How to heal.
pub(crate) struct Healing {
    pub(crate) schedule: Schedule,
    /// Windows of a step.
    pub(crate) batch: usize,
}

/// Told what happens.
pub(crate) trait Progress {
    /// A step was made, with this loss on its batch in nats per token.
    fn step(&mut self, step: usize, loss: f64);
    /// The held-out loss after `step` steps, in nats per token.
    fn held_out(&mut self, step: usize, loss: f64) -> Result<()>;
}

/// Everything that stays the same while healing.
pub(super) struct Course<'a> {
    pub(super) shape: &'a Shape,
    pub(super) split: &'a Split,
    pub(super) healing: &'a Healing,
    pub(super) text: &'a Batches<'a>,
    pub(super) held: &'a [Batch],
    /// Set from elsewhere to stop between two steps.
    pub(super) stop: &'a AtomicBool,
}

impl Course<'_> {
    /// Trains `weights`; returns the new ones and their held-out loss.
    pub(super) fn run(&self, weights: &Weights, random: Random, progress: &mut dyn Progress) -> Result<(Weights, f64)> {
        let (weights, variables) = weights.trainable(|_| true)?;
        let (steps, batch) = (self.healing.schedule.steps, self.healing.batch);
        let mut optimiser = Optimiser::new(variables, self.healing.schedule)?;
        let mut last = f64::NAN;
        for (step, batch) in self.text.shuffled(batch, random).take(steps).enumerate() {
            unless(self.stop)?;
            let batch = batch?;
            let (logits, balance) = self.model(&weights)?.forward(&batch.inputs)?;
            let loss = cross_entropy(&logits, &batch.targets)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(Failure::new(format!("the loss is {value} at step {}; a smaller --lr keeps training stable", step + 1)));
            }
            let objective = match balance {
                Some(balance) => (loss + (balance * BALANCE)?)?,
                None => loss,
            };
            optimiser.step(&objective)?;
            progress.step(step + 1, value);
            if (step + 1) % steps.div_ceil(CHECKS) == 0 || step + 1 == steps {
                last = held_out(&self.model(&weights)?, self.held)?;
                progress.held_out(step + 1, last)?;
            }
        }
        Ok((weights, last))
    }

    fn model(&self, weights: &Weights) -> candle_core::Result<Moe> {
        Moe::load(self.shape, self.split, weights)
    }
}

/// Fails once `stop` is set.
pub(super) fn unless(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Failure::new("interrupted; nothing was written")) } else { Ok(()) }
}

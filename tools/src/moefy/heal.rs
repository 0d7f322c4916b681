//! Fine-tuning after the cut: all weights learn to predict the next token with what is left active.

use std::sync::atomic::{AtomicBool, Ordering};

use super::BALANCE;
use super::moe::Moe;
use super::shape::Shape;
use super::split::Split;
use crate::failure::{Failure, Result};
use crate::random::Random;
use crate::training::{Batch, Batches, Course, Lesson, Model, Objective, Optimiser, Schedule, Weights, cross_entropy, held_out};

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
pub(super) struct Heal<'a> {
    pub(super) shape: &'a Shape,
    pub(super) split: &'a Split,
    pub(super) healing: &'a Healing,
    pub(super) text: &'a Batches<'a>,
    pub(super) held: &'a [Batch],
    /// Set from elsewhere to stop between two steps.
    pub(super) stop: &'a AtomicBool,
}

impl Heal<'_> {
    /// Trains `weights`; returns the new ones and their held-out loss.
    pub(super) fn run(&self, weights: &Weights, random: Random, progress: &mut dyn Progress) -> Result<(Weights, f64)> {
        let (weights, variables) = weights.trainable(|_| true)?;
        let Healing { schedule, batch } = *self.healing;
        let mut optimiser = Optimiser::new(variables, schedule)?;
        let mut lesson = HealLesson { heal: self, weights, progress, last: f64::NAN };
        let course = Course { steps: schedule.steps, keeper: None, stop: self.stop };
        course.run(&mut optimiser, self.text.shuffled(batch, random), &mut lesson)?;
        Ok((lesson.weights, lesson.last))
    }
}

/// Weights on the way to health.
struct HealLesson<'a> {
    heal: &'a Heal<'a>,
    weights: Weights,
    progress: &'a mut dyn Progress,
    /// Held-out loss.
    last: f64,
}

impl HealLesson<'_> {
    fn model(&self) -> candle_core::Result<Moe> {
        Moe::load(self.heal.shape, self.heal.split, &self.weights)
    }
}

impl Lesson for HealLesson<'_> {
    fn objective(&self, batch: &Batch) -> Result<Objective> {
        let (logits, balance) = self.model()?.forward(&batch.inputs)?;
        let error = cross_entropy(&logits, &batch.targets)?;
        let loss = match balance {
            Some(balance) => (&error + (balance * BALANCE)?)?,
            None => error.clone(),
        };
        Ok(Objective { error, loss })
    }

    fn made(&mut self, step: usize, error: f64) {
        self.progress.step(step, error);
    }

    fn check(&mut self, step: usize) -> Result<()> {
        self.last = held_out(&self.model()?, self.heal.held)?;
        self.progress.held_out(step, self.last)
    }
}

/// Fails once `stop` is set.
pub(super) fn unless(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Failure::new("interrupted; nothing was written")) } else { Ok(()) }
}

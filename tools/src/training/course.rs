//! A course of training: step after step, with looks at held-out text and a state that survives an interruption.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;

use super::{Batch, Keeper, Optimiser};
use crate::failure::{Failure, Result};

/// How often held-out text is looked at.
const CHECKS: usize = 5;

/// Everything that stays the same from step to step.
pub(crate) struct Course<'a> {
    pub(crate) steps: usize,
    /// Where the state is kept, and after how many steps again.
    pub(crate) keeper: Option<(&'a Keeper, usize)>,
    /// Set from elsewhere to stop between two steps.
    pub(crate) stop: &'a AtomicBool,
}

/// What a batch amounts to: two scalars.
pub(crate) struct Objective {
    /// The prediction error in nats per token.
    pub(crate) error: Tensor,
    /// What is to be made smaller: the error, and whatever is wished for beside it.
    pub(crate) loss: Tensor,
}

/// Told of what happens.
pub(crate) trait Lesson {
    /// What `batch` amounts to with the weights as they are.
    fn objective(&self, batch: &Batch) -> Result<Objective>;
    /// Step `step`, counted from 1, was made; `error` is what it was before in nats per token.
    fn made(&mut self, step: usize, error: f64);
    /// After `step` steps it is time to look at held-out text.
    fn check(&mut self, step: usize) -> Result<()>;
}

impl Course<'_> {
    /// Makes the steps that `optimiser` has not made yet. `batches`: of all steps, those made before included.
    pub(crate) fn run(
        &self,
        optimiser: &mut Optimiser,
        batches: impl Iterator<Item = candle_core::Result<Batch>>,
        lesson: &mut impl Lesson,
    ) -> Result<()> {
        let first = optimiser.steps_made();
        for (step, batch) in batches.enumerate().take(self.steps).skip(first) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.interrupted(optimiser));
            }
            let Objective { error, loss } = lesson.objective(&batch?)?;
            let (error, value) = (f64::from(error.to_scalar::<f32>()?), loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(Failure::new(format!("the loss is {value} at step {}; a smaller --lr keeps training stable", step + 1)));
            }
            // Only weights that have proved themselves replace the state of those before them.
            if let Some((keeper, every)) = self.keeper
                && step > first
                && step % every == 0
            {
                keeper.save(optimiser)?;
            }
            optimiser.step(&loss)?;
            lesson.made(step + 1, error);
            if (step + 1) % self.steps.div_ceil(CHECKS) == 0 || step + 1 == self.steps {
                lesson.check(step + 1)?;
            }
        }
        if self.stop.load(Ordering::Relaxed) { Err(self.interrupted(optimiser)) } else { Ok(()) }
    }

    /// Keeps what was learned so far, if that was wished for, and says so.
    fn interrupted(&self, optimiser: &Optimiser) -> Failure {
        let Some((keeper, _)) = self.keeper else { return Failure::new("interrupted; nothing was written") };
        match keeper.save(optimiser) {
            Ok(()) => Failure::new(format!("interrupted after step {}; go on with --resume", optimiser.steps_made())),
            Err(failure) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use candle_core::{Device, Var};
    use serde_json::Map;

    use super::super::{Batches, Schedule};
    use super::*;
    use crate::random::Random;

    /// A parabola that has no bottom after a number of steps.
    struct Parabola {
        x: Var,
        cliff: usize,
        made: usize,
    }

    impl Lesson for Parabola {
        fn objective(&self, _: &Batch) -> Result<Objective> {
            let loss = (self.x.sqr()?.sum_all()? * if self.made == self.cliff { f64::NAN } else { 1.0 })?;
            Ok(Objective { error: loss.clone(), loss })
        }

        fn made(&mut self, step: usize, _: f64) {
            self.made = step;
        }

        fn check(&mut self, _: usize) -> Result<()> {
            Ok(())
        }
    }

    fn optimiser() -> (Var, Optimiser) {
        let x = Var::new(&[3.0f32, -2.0], &Device::Cpu).unwrap();
        let schedule = Schedule { steps: 20, rate: 0.1, decay: 0.0 };
        (x.clone(), Optimiser::new([("x".to_owned(), x)].into(), schedule).unwrap())
    }

    /// When the loss is no number any more, the state is that of the last weights with a loss that was one.
    #[test]
    fn the_last_good_state_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(&dir.path().join("out"), Map::new(), false).unwrap();
        let (stop, tokens) = (AtomicBool::new(false), [0; 9]);
        let batches = || Batches::new(&tokens, None, 2).unwrap();
        let course = Course { steps: 20, keeper: Some((&keeper, 3)), stop: &stop };
        let (x, mut first) = optimiser();
        let failure = course.run(&mut first, batches().shuffled(1, Random(1)), &mut Parabola { x, cliff: 9, made: 0 });
        assert!(failure.unwrap_err().to_string().contains("at step 10"));

        // The weights after nine steps have no loss; those after six do.
        let (x, mut second) = optimiser();
        keeper.restore(&mut second).unwrap();
        assert_eq!(second.steps_made(), 6);
        let (y, mut third) = optimiser();
        let short = Course { steps: 6, keeper: None, stop: &stop };
        short.run(&mut third, batches().shuffled(1, Random(1)), &mut Parabola { x: y.clone(), cliff: 99, made: 0 }).unwrap();
        assert_eq!(x.to_vec1::<f32>().unwrap(), y.to_vec1::<f32>().unwrap());
    }
}

//! Training a language model on text: what is wished for beside good predictions is the caller's.

use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::interpreter::{Interpreter, Pass};
use super::{Batch, Course, Keeper, Lesson, Measured, Objective, Optimiser, Schedule, Weights, cross_entropy, measure};
use crate::failure::{Failure, Result};
use crate::random::Random;

/// Windows that are run at once where nothing is trained.
pub(crate) const WINDOWS: usize = 16;

/// How long and how to train.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) schedule: Schedule,
    /// Windows of a step.
    pub(crate) batch: usize,
    /// Tokens of a window.
    pub(crate) window: usize,
    pub(crate) seed: u64,
    /// Whether weights are written in f32 instead of the type they came in.
    pub(crate) full: bool,
    /// Steps after which the state is kept again.
    pub(crate) every: usize,
    /// Whether to go on from a state.
    pub(crate) resume: bool,
    /// Where weights are and everything is computed.
    pub(crate) device: Device,
}

impl Settings {
    /// What must be the same to go on from a state, `more` included.
    pub(crate) fn identity(&self, more: &Value) -> Map<String, Value> {
        let Schedule { steps, rate, .. } = self.schedule;
        let common = json!({ "--steps": steps, "--lr": rate, "--batch": self.batch, "--window": self.window, "--seed": self.seed });
        [&common, more].into_iter().filter_map(Value::as_object).flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Random numbers for the order of the text.
    pub(crate) fn random(&self) -> Random {
        Random(self.seed)
    }

    /// A configuration for the written weights.
    pub(crate) fn config(&self, config: &Map<String, Value>) -> Map<String, Value> {
        let mut config = config.clone();
        for key in ["torch_dtype", "dtype"] {
            if let Some(value) = config.get_mut(key).filter(|_| self.full) {
                *value = json!("float32");
            }
        }
        config
    }
}

/// Told how it goes.
pub(crate) trait Progress {
    /// Step `step` was made; its batch had this prediction error in nats per token.
    fn step(&mut self, step: usize, error: f64);
    /// What became of held-out text after `step` steps.
    fn check(&mut self, step: usize, measured: &Measured) -> Result<()>;
}

/// A model that is taught.
pub(crate) struct Teaching<'a> {
    pub(crate) model: &'a Interpreter,
    /// All weights, as functions of the variables.
    pub(crate) weights: &'a dyn Fn() -> candle_core::Result<Weights>,
    /// A scalar that is to be small beside the prediction error.
    pub(crate) beside: &'a dyn Fn(&Pass) -> candle_core::Result<Tensor>,
    pub(crate) settings: &'a Settings,
    pub(crate) keeper: &'a Keeper,
    pub(crate) stop: &'a AtomicBool,
}

impl Teaching<'_> {
    /// Trains what `optimiser` moves, from the beginning or from where the state left off. `batches`: of all steps; `held`: held-out text.
    pub(crate) fn run(
        &self,
        mut optimiser: Optimiser,
        batches: impl Iterator<Item = candle_core::Result<Batch>>,
        held: &[Batch],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let Settings { schedule, every, resume, .. } = *self.settings;
        if resume {
            self.keeper.restore(&mut optimiser)?;
        }
        let mut pupil = Pupil { teaching: self, held, progress };
        if !resume {
            pupil.check(0)?;
        }
        let course = Course { steps: schedule.steps, keeper: Some((self.keeper, every)), stop: self.stop };
        course.run(&mut optimiser, batches, &mut pupil)
    }
}

struct Pupil<'a> {
    teaching: &'a Teaching<'a>,
    held: &'a [Batch],
    progress: &'a mut dyn Progress,
}

impl Lesson for Pupil<'_> {
    fn objective(&self, batch: &Batch) -> Result<Objective> {
        let pass = self.teaching.model.forward(&(self.teaching.weights)()?, &batch.inputs)?;
        let error = cross_entropy(&pass.logits, &batch.targets)?;
        let loss = (&error + (self.teaching.beside)(&pass)?)?;
        Ok(Objective { error, loss })
    }

    fn made(&mut self, step: usize, error: f64) {
        self.progress.step(step, error);
    }

    fn check(&mut self, step: usize) -> Result<()> {
        let measured = measure(self.teaching.model, &(self.teaching.weights)()?, self.held)?;
        if !measured.loss.is_finite() {
            let loss = measured.loss;
            return Err(Failure::new(format!("the held-out loss is {loss} after step {step}; a smaller --lr keeps training stable")));
        }
        self.progress.check(step, &measured)
    }
}

//! AdamW under a schedule: warm-up, then half a cosine; gradients clipped.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use super::adam::Adam;

/// Largest length of all gradients together.
const CLIP: f64 = 1.0;
/// Share of the steps that warm up.
const WARM_UP: f64 = 0.05;
/// What the rate ends at, as a share of its peak.
const FLOOR: f64 = 0.02;

/// How fast weights move at each step.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) steps: usize,
    /// The highest learning rate.
    pub(crate) rate: f64,
    /// Weight decay of matrices. What is fine-tuned is near where it should be and needs none.
    pub(crate) decay: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    fn at(&self, step: usize) -> f64 {
        let warm_up = (self.steps as f64 * WARM_UP).ceil();
        let (step, steps) = (step as f64 + 1.0, self.steps as f64);
        if step <= warm_up {
            return self.rate * step / warm_up;
        }
        let progress = (step - warm_up) / (steps - warm_up).max(1.0);
        self.rate * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()))
    }
}

/// Moves variables against their gradients.
pub(crate) struct Optimiser {
    /// By the variables' names.
    adams: BTreeMap<String, Adam>,
    schedule: Schedule,
    /// Steps made.
    step: usize,
}

impl Optimiser {
    pub(crate) fn new(variables: BTreeMap<String, Var>, schedule: Schedule) -> Result<Optimiser> {
        let adams = variables.into_iter().map(|(name, variable)| Ok((name, Adam::new(variable)?)));
        Ok(Optimiser { adams: adams.collect::<Result<_>>()?, schedule, step: 0 })
    }

    /// One step that makes the scalar `loss` smaller. Variables that the loss does not depend on stay as they are.
    pub(crate) fn step(&mut self, loss: &Tensor) -> Result<()> {
        let gradients = loss.backward()?;
        let mut square = 0.0;
        for gradient in self.adams.values().filter_map(|a| gradients.get(&a.variable)) {
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        // All gradients are shortened alike when together they are longer than CLIP.
        let scale = CLIP / square.sqrt().max(CLIP);
        let rate = self.schedule.at(self.step);
        self.step += 1;
        for adam in self.adams.values() {
            if let Some(gradient) = gradients.get(&adam.variable) {
                // What is one-dimensional are norms and biases, which must not shrink.
                let decay = if adam.variable.rank() > 1 { self.schedule.decay } else { 0.0 };
                adam.step(self.step, gradient, scale, rate, decay)?;
            }
        }
        Ok(())
    }

    /// Steps made so far.
    pub(crate) fn steps_made(&self) -> usize {
        self.step
    }

    /// Every variable by its name, and its two moments.
    pub(super) fn state(&self) -> impl Iterator<Item = (&str, [&Var; 3])> {
        self.adams.iter().map(|(name, Adam { variable, moments: [first, second] })| (name.as_str(), [variable, first, second]))
    }

    /// Goes on as after `steps` steps.
    pub(super) fn go_on_from(&mut self, steps: usize) {
        self.step = steps;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use candle_core::Device;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { steps: 100, rate: 2.0, decay: 0.0 };
        assert!((schedule.at(0) - 0.4).abs() < 1e-9);
        assert!((schedule.at(4) - 2.0).abs() < 1e-9);
        assert!((5..100).all(|s| schedule.at(s) < schedule.at(s - 1)));
        assert!((schedule.at(99) - 2.0 * FLOOR).abs() < 1e-9);
        assert_eq!(Schedule { steps: 1, rate: 2.0, decay: 0.0 }.at(0), 2.0);
    }

    #[test]
    fn a_parabola_is_descended_however_steep() {
        let x = Var::new(&[3.0f32, -2.0], &Device::Cpu).unwrap();
        let mut optimiser = Optimiser::new([("x".to_owned(), x.clone())].into(), Schedule { steps: 200, rate: 0.1, decay: 0.0 }).unwrap();
        for _ in 0..200 {
            let loss = (x.sqr().unwrap().sum_all().unwrap() * 1e6).unwrap();
            optimiser.step(&loss).unwrap();
        }
        assert!(x.to_vec1::<f32>().unwrap().iter().all(|v| v.abs() < 0.05), "{x}");
    }
}

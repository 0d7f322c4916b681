//! AdamW under a schedule: warm-up, then half a cosine; gradients clipped.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

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
    inner: AdamW,
    variables: Vec<Var>,
    schedule: Schedule,
    step: usize,
}

impl Optimiser {
    pub(crate) fn new(variables: Vec<Var>, schedule: Schedule) -> Result<Optimiser> {
        // No decay: what is fine-tuned is near where it should be, and norms must not shrink.
        let parameters = ParamsAdamW { lr: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
        Ok(Optimiser { inner: AdamW::new(variables.clone(), parameters)?, variables, schedule, step: 0 })
    }

    /// One step that makes the scalar `loss` smaller.
    pub(crate) fn step(&mut self, loss: &Tensor) -> Result<()> {
        let mut gradients = loss.backward()?;
        clip(&self.variables, &mut gradients)?;
        self.inner.set_learning_rate(self.schedule.at(self.step));
        self.inner.step(&gradients)?;
        self.step += 1;
        Ok(())
    }
}

/// Shortens all gradients alike when together they are longer than [`CLIP`].
fn clip(variables: &[Var], gradients: &mut GradStore) -> Result<()> {
    let mut square = 0.0;
    for gradient in variables.iter().filter_map(|v| gradients.get(v)) {
        square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let length = square.sqrt();
    if length > CLIP {
        for variable in variables {
            if let Some(gradient) = gradients.remove(variable) {
                gradients.insert(variable, (gradient * (CLIP / length))?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use candle_core::Device;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { steps: 100, rate: 2.0 };
        assert!((schedule.at(0) - 0.4).abs() < 1e-9);
        assert!((schedule.at(4) - 2.0).abs() < 1e-9);
        assert!((5..100).all(|s| schedule.at(s) < schedule.at(s - 1)));
        assert!((schedule.at(99) - 2.0 * FLOOR).abs() < 1e-9);
        assert_eq!(Schedule { steps: 1, rate: 2.0 }.at(0), 2.0);
    }

    #[test]
    fn a_parabola_is_descended_however_steep() {
        let x = Var::new(&[3.0f32, -2.0], &Device::Cpu).unwrap();
        let mut optimiser = Optimiser::new(vec![x.clone()], Schedule { steps: 200, rate: 0.1 }).unwrap();
        for _ in 0..200 {
            let loss = (x.sqr().unwrap().sum_all().unwrap() * 1e6).unwrap();
            optimiser.step(&loss).unwrap();
        }
        assert!(x.to_vec1::<f32>().unwrap().iter().all(|v| v.abs() < 0.05), "{x}");
    }
}

//! How likely a record's next turn uses it, from its shares at several speeds.
//!
//! No formula for "hot" suits every model: with some the last token's experts come back, with others long habits decide. So the chance is
//! a mixture of what a record did at its last turn, lately, and in the long run, and its weights follow what turned out.

use super::heat::{SPEEDS, Shares};

/// How fast weights follow.
const RATE: f32 = 0.1;

/// What is left after each turn of the gradients before: about two thousand turns count.
const FADE: f32 = 0.9995;

/// Weights of a record's shares, and last of what its share would be if all of its pool were equal. Learned by stochastic gradient descent
/// on the squared error, each weight with a step of its own (AdaGrad).
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    weights: [f32; SPEEDS + 1],
    /// Sums of squared gradients.
    squares: [f32; SPEEDS + 1],
}

/// What one turn of a pool teaches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lesson([f32; SPEEDS + 1]);

impl Mixture {
    pub(super) fn new() -> Mixture {
        let mut weights = [1.0 / SPEEDS as f32; SPEEDS + 1];
        weights[SPEEDS] = 0.0;
        Mixture { weights, squares: [1.0; SPEEDS + 1] }
    }

    /// The chance that its next turn uses a record with these shares; `even` is the share of an average record of its pool.
    pub(super) fn chance(&self, shares: &Shares, even: f32) -> f32 {
        let sum: f32 = terms(shares, even).iter().zip(&self.weights).map(|(t, w)| t * w).sum();
        // A mixture may go astray, a chance must not: nobody is certain to come, and habits stay in sight.
        sum.clamp(0.1 * shares[SPEEDS - 1] + 1e-4, 0.999)
    }

    /// Notes that a turn used a record with these shares or not.
    pub(super) fn observe(&self, lesson: &mut Lesson, shares: &Shares, even: f32, used: bool) {
        // Relative to an average record, so that small pools and large ones teach alike.
        let error = (f32::from(u8::from(used)) - self.chance(shares, even)) / even;
        lesson.0.iter_mut().zip(terms(shares, even)).for_each(|(g, t)| *g += error * t);
    }

    /// Follows what a turn taught.
    pub(super) fn learn(&mut self, lesson: &Lesson) {
        for ((weight, square), gradient) in self.weights.iter_mut().zip(&mut self.squares).zip(lesson.0) {
            *square = *square * FADE + gradient * gradient;
            *weight += RATE * gradient / square.sqrt();
        }
    }
}

/// What is mixed.
fn terms(shares: &Shares, even: f32) -> [f32; SPEEDS + 1] {
    let mut terms = [even; SPEEDS + 1];
    terms[..SPEEDS].copy_from_slice(shares);
    terms
}

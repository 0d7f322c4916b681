//! Vector operations of the reference, each the textbook line.

use std::ops::Range;

use super::router::route;
use crate::bundle::Bundle;
use crate::codec::Matrix;
use crate::error::Result;
use crate::model::Routing;
use crate::plan::{Activation, Linear, Norm};

/// `W · x`: `[rows]`.
pub(super) fn matvec(w: Matrix<'_>, x: &[f32]) -> Vec<f32> {
    matvec_rows(w, 0..w.layout().rows, x)
}

/// Some rows of `W · x`.
pub(super) fn matvec_rows(w: Matrix<'_>, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; x.len()];
    rows.map(|r| {
        w.row(r, &mut row);
        dot(&row, x)
    })
    .collect()
}

/// `W · x + b`, and what an adapter adds.
pub(super) fn linear(bundle: &Bundle, l: &Linear, x: &[f32]) -> Result<Vec<f32>> {
    adapted(bundle, l, x, None)
}

/// The same, inside a mixture for one of the adapter's experts.
pub(super) fn adapted(bundle: &Bundle, l: &Linear, x: &[f32], expert: Option<u32>) -> Result<Vec<f32>> {
    let mut y = matvec(bundle.matrix(&l.weight)?, x);
    if let Some(b) = &l.bias {
        add_scaled(&mut y, bundle.vector(b)?, 1.0);
    }
    if let Some(d) = bundle.plan().adapter.as_ref().and_then(|a| a.deltas.get(&l.weight)) {
        let mut weights = vec![if expert.is_some() || d.router.is_some() { 0.0 } else { 1.0 }; d.experts as usize];
        match (expert, &d.router) {
            (Some(e), _) => weights[e as usize] = 1.0,
            (None, Some(r)) => {
                for route in route(bundle, r, Routing::Planned, x, &mut [])? {
                    weights[route.expert as usize] = route.weight;
                }
            }
            (None, None) => {}
        }
        let mut z = matvec(bundle.matrix(&d.down)?, x);
        for (z, w) in z.chunks_mut(d.rank as usize).zip(weights) {
            z.iter_mut().for_each(|z| *z *= w);
        }
        add_scaled(&mut y, &matvec(bundle.matrix(&d.up)?, &z), 1.0);
    }
    Ok(y)
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `x += scale * y`.
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
}

pub(super) fn norm(bundle: &Bundle, n: &Norm, x: &[f32]) -> Result<Vec<f32>> {
    let len = x.len() as f32;
    let weight = bundle.vector(n.weight())?;
    Ok(match n {
        Norm::Rms { eps, .. } => {
            let inverse = 1.0 / (dot(x, x) / len + eps).sqrt();
            x.iter().zip(weight).map(|(v, w)| v * inverse * w).collect()
        }
        Norm::Layer { bias, eps, .. } => {
            let mean = x.iter().sum::<f32>() / len;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / len;
            let inverse = 1.0 / (variance + eps).sqrt();
            let mut y: Vec<f32> = x.iter().zip(weight).map(|(v, w)| (v - mean) * inverse * w).collect();
            if let Some(b) = bias {
                add_scaled(&mut y, bundle.vector(b)?, 1.0);
            }
            y
        }
    })
}

/// Turns one head at `position` (half-split pairs).
pub(super) fn rotate(head: &mut [f32], frequencies: &[f32], amplitude: f32, position: usize) {
    let pairs = frequencies.len();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        let (sin, cos) = (sin * amplitude, cos * amplitude);
        let (a, b) = (head[i], head[i + pairs]);
        head[i] = a * cos - b * sin;
        head[i + pairs] = b * cos + a * sin;
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}

/// `act(x)` of a hidden layer without a gate.
pub(super) fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Clamped { alpha, limit } => {
            let x = x.min(limit);
            x * sigmoid(alpha * x)
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        Activation::Relu => x.max(0.0),
    }
}

/// `act(gate) ⊙ up`, for one element.
pub(super) fn gated(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::Clamped { limit, .. } => activate(activation, gate) * (up.clamp(-limit, limit) + 1.0),
        _ => activate(activation, gate) * up,
    }
}

/// Error function in double precision: Maclaurin series near zero, continued fraction of erfc (Lentz) beyond.
pub(super) fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    let a = x.abs();
    let y = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..60 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        // erfc(a) = exp(-a²)/√π · 1/(a + ½/(a + 1/(a + 3/2/(a + …))))
        let fraction = (1..40).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    y.copysign(x) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_published_values() {
        // Abramowitz & Stegun, table 7.1.
        for (x, want) in [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (3.0, 0.999_977_9)] {
            assert!((erf(x) - want).abs() < 1e-6, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn rotation_keeps_length_and_turns_by_relative_position() {
        let (q, k) = ([0.3, -1.0, 0.7, 0.2], [1.1, 0.4, -0.5, 0.9]);
        let at = |v: [f32; 4], p| {
            let mut v = v;
            rotate(&mut v, &[1.0, 0.1], 1.0, p);
            v
        };
        let near = dot(&at(q, 7), &at(k, 4));
        let far = dot(&at(q, 107), &at(k, 104));
        assert!((near - far).abs() < 1e-4, "{near} {far}");
        assert!((dot(&at(q, 9), &at(q, 9)) - dot(&q, &q)).abs() < 1e-5);
    }
}

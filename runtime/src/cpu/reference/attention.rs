//! Attention of one token over a cache.

use super::ops::{dot, linear, norm, rotate, sigmoid, softmax};
use super::router::Route;
use super::{Cache, project};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Attention, AttentionKind, Norm, Part, Role};

/// Appends the token's keys and values to `cache` and returns the step's output `[D]`. `routed` is the pool and the token's routes
/// when queries are routed.
pub(super) fn attend(
    bundle: &Bundle,
    attention: &Attention,
    a: &[f32],
    routed: Option<(usize, &[Route])>,
    cache: &mut Cache,
    position: usize,
    options: RunOptions,
) -> Result<Vec<f32>> {
    let state = &bundle.plan().states[attention.state as usize];
    let finish = |mut heads: Vec<f32>, n: &Option<Norm>| -> Result<Vec<f32>> {
        normalise(bundle, n, attention, &mut heads)?;
        clip(attention, &mut heads);
        if let Some(r) = attention.rotation {
            let rotation = &bundle.plan().rotations[r as usize];
            heads.chunks_mut(attention.head_dim as usize).for_each(|h| rotate(h, rotation, position));
        }
        Ok(heads)
    };

    cache.keys.push_back(finish(part(bundle, &attention.k, a)?, &attention.k_norm)?);
    if !state.tied {
        let mut v = part(bundle, &attention.v, a)?;
        clip(attention, &mut v);
        cache.values.push_back(v);
    }
    if options.slide && cache.keys.len() > options.context {
        cache.keys.pop_front();
        cache.values.pop_front();
    }

    let attend = |q: Vec<f32>| -> Result<Vec<f32>> {
        let q = finish(q, &attention.q_norm)?;
        Ok(mix(attention, &q, cache, state.kv_heads as usize, options.stick_epsilon))
    };
    match (&attention.q, &attention.o, routed) {
        (Part::Shared(q), Part::Shared(o), _) => linear(bundle, o, &attend(linear(bundle, q, a)?)?),
        (_, _, Some((pool, routes))) => {
            let mut y = vec![0.0; a.len()];
            for route in routes {
                let q = project(bundle, pool, route.expert, Role::Query, a)?;
                let out = project(bundle, pool, route.expert, Role::Output, &attend(q)?)?;
                super::add_scaled(&mut y, &out, route.weight);
            }
            Ok(y)
        }
        _ => Err(Error::Input("an attention step has neither shared nor routed queries".into())),
    }
}

/// Keys or values of the token, before normalisation, clipping and rotation. `[KV · head_dim]`
fn part(bundle: &Bundle, part: &Part, a: &[f32]) -> Result<Vec<f32>> {
    match part {
        Part::Shared(l) => linear(bundle, l, a),
        Part::Input => Ok(a.to_vec()),
        Part::Expert => Err(Error::Input("routed keys need an expert that carries them".into())),
    }
}

fn clip(attention: &Attention, y: &mut [f32]) {
    if let Some(c) = attention.clip {
        y.iter_mut().for_each(|v| *v = v.clamp(-c, c));
    }
}

/// Over each head or over all of them, as the weight's length says.
fn normalise(bundle: &Bundle, n: &Option<Norm>, attention: &Attention, heads: &mut Vec<f32>) -> Result<()> {
    if let Some(n) = n {
        let head_dim = attention.head_dim as usize;
        let len = if bundle.vector(n.weight())?.len() == head_dim { head_dim } else { heads.len() };
        let parts: Result<Vec<_>> = heads.chunks(len).map(|h| norm(bundle, n, h)).collect();
        *heads = parts?.concat();
    }
    Ok(())
}

/// Each query head's mix of values: `[H · head_dim]`.
fn mix(attention: &Attention, q: &[f32], cache: &Cache, kv_heads: usize, epsilon: f32) -> Vec<f32> {
    let (heads, dim) = (attention.heads as usize, attention.head_dim as usize);
    let rows = cache.keys.len();
    let first = attention.window.map_or(0, |w| rows.saturating_sub(w as usize));
    let values = if cache.values.is_empty() { &cache.keys } else { &cache.values };
    let mut out = vec![0.0; heads * dim];
    for (h, (q, out)) in q.chunks(dim).zip(out.chunks_mut(dim)).enumerate() {
        let at = h / (heads / kv_heads) * dim;
        let logits: Vec<f32> = (first..rows).map(|j| dot(q, &cache.keys[j][at..at + dim]) * attention.scale).collect();
        for (j, weight) in weights(attention.kind, logits, epsilon).into_iter().enumerate() {
            super::add_scaled(out, &values[first + j][at..at + dim], weight);
        }
    }
    out
}

/// How much each visible key counts, oldest first.
fn weights(kind: AttentionKind, mut logits: Vec<f32>, epsilon: f32) -> Vec<f32> {
    match kind {
        AttentionKind::Softmax => softmax(&mut logits),
        AttentionKind::StickBreaking => {
            // What is left of the stick, as a logarithm; broken from the newest key into the past.
            let mut left = 0.0f32;
            for l in logits.iter_mut().rev() {
                let weight = if epsilon > 0.0 && left.exp() < epsilon { 0.0 } else { left.exp() * sigmoid(*l) };
                left -= softplus(*l);
                *l = weight;
            }
        }
    }
    logits
}

/// `log(1 + e^x)`, safe for large `x`.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stick_breaking_weights_and_rest_sum_to_one() {
        let logits = vec![0.3, -2.0, 1.5, 40.0, -0.7];
        let weights = weights(AttentionKind::StickBreaking, logits.clone(), 0.0);
        let rest: f32 = logits.iter().map(|l| 1.0 - sigmoid(*l)).product();
        assert!((weights.iter().sum::<f32>() + rest - 1.0).abs() < 1e-6);
        assert!((weights[4] - sigmoid(-0.7)).abs() < 1e-7);
    }

    #[test]
    fn an_exhausted_stick_is_not_broken_further() {
        let weights = weights(AttentionKind::StickBreaking, vec![5.0, 5.0, 20.0, 0.0], 1e-3);
        assert_eq!(&weights[..2], [0.0, 0.0]);
    }
}

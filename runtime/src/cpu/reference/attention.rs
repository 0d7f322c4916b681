//! Attention of one token over a cache.

use super::ops::{add_scaled, dot, linear, matvec_rows, norm, rotate, sigmoid, softmax};
use super::router::Route;
use super::{Cache, project};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Attention, AttentionKind, Latent, Norm, Part, Role, State};

/// What an attention step works with.
pub(super) struct Token<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) attention: &'a Attention,
    /// Pool and routes of the token where anything is routed.
    pub(super) routed: Option<(usize, &'a [Route])>,
    pub(super) position: usize,
    pub(super) options: RunOptions,
}

impl Token<'_> {
    /// Appends the token's keys and values to `caches` and returns the step's output `[D]` for its input `a`. A state without groups has
    /// one cache, others one for each expert.
    pub(super) fn attend(&self, a: &[f32], caches: &mut [Cache]) -> Result<Vec<f32>> {
        let attention = self.attention;
        match (&attention.q, &attention.o, self.routed) {
            (Part::Sum { weighted }, _, Some((pool, routes))) => {
                let part = |role| self.sum(pool, routes, role, *weighted, a);
                self.append(part(Role::Key)?, part(Role::Value)?, &mut caches[0])?;
                let mixed = self.mixed(part(Role::Query)?, &caches[0])?;
                self.outputs(pool, routes, a.len(), |_| Ok(mixed.clone()))
            }
            (_, Part::Shared(o), _) => {
                self.append(self.part(&attention.k, a)?, self.part(&attention.v, a)?, &mut caches[0])?;
                linear(self.bundle, o, &self.mixed(self.part(&attention.q, a)?, &caches[0])?)
            }
            (_, _, Some((pool, routes))) => {
                if !self.state().grouped {
                    self.append(self.part(&attention.k, a)?, self.part(&attention.v, a)?, &mut caches[0])?;
                }
                self.outputs(pool, routes, a.len(), |route| {
                    let project = |role| project(self.bundle, pool, route.expert, role, a);
                    let group = if self.state().grouped { route.expert as usize } else { 0 };
                    if self.state().grouped {
                        self.append(project(Role::Key)?, project(Role::Value)?, &mut caches[group])?;
                    }
                    self.mixed(project(Role::Query)?, &caches[group])
                })
            }
            _ => Err(Error::Input("an attention step has neither shared nor routed queries".into())),
        }
    }

    fn state(&self) -> &State {
        &self.bundle.plan().states[self.attention.state as usize]
    }

    /// Queries, keys or values of the token, before normalisation, clipping and rotation.
    fn part(&self, part: &Part, a: &[f32]) -> Result<Vec<f32>> {
        match part {
            Part::Shared(l) => linear(self.bundle, l, a),
            Part::LowRank { down, norm: n, up } => linear(self.bundle, up, &norm(self.bundle, n, &linear(self.bundle, down, a)?)?),
            Part::Input => Ok(a.to_vec()),
            Part::Expert | Part::Sum { .. } => Err(Error::Input("a routed projection needs routes".into())),
        }
    }

    /// The routes' projections added up.
    fn sum(&self, pool: usize, routes: &[Route], role: Role, weighted: bool, a: &[f32]) -> Result<Vec<f32>> {
        let heads = if role == Role::Query { self.attention.heads } else { self.state().kv_heads };
        let mut y = vec![0.0; (heads * self.attention.head_dim) as usize];
        for route in routes.iter().filter(|r| self.computes(pool, r)) {
            let weight = if weighted { route.weight } else { 1.0 };
            add_scaled(&mut y, &project(self.bundle, pool, route.expert, role, a)?, weight);
        }
        Ok(y)
    }

    /// `Σ weight · output(mixed)` over the routes, `[width]`.
    fn outputs(&self, pool: usize, routes: &[Route], width: usize, mut mixed: impl FnMut(&Route) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut y = vec![0.0; width];
        for route in routes.iter().filter(|r| self.computes(pool, r)) {
            let out = project(self.bundle, pool, route.expert, Role::Output, &mixed(route)?)?;
            add_scaled(&mut y, &out, route.weight);
        }
        Ok(y)
    }

    fn computes(&self, pool: usize, route: &Route) -> bool {
        self.bundle.plan().pools[pool].record_of(route.expert).is_some()
    }

    fn append(&self, keys: Vec<f32>, mut values: Vec<f32>, cache: &mut Cache) -> Result<()> {
        cache.keys.push_back(self.finish(keys, self.attention.k_norm.as_ref(), self.latent().map_or(0, |l| l.rank as usize))?);
        if !self.state().tied {
            clip(self.attention, &mut values);
            cache.values.push_back(values);
        }
        if self.options.slide && cache.keys.len() > self.options.context {
            cache.keys.pop_front();
            cache.values.pop_front();
        }
        Ok(())
    }

    fn latent(&self) -> Option<&Latent> {
        self.attention.latent.as_ref()
    }

    /// Norm, clip and rotation. `from`: elements of a head before those that are rotated; a norm of that many is for them alone.
    fn finish(&self, mut heads: Vec<f32>, n: Option<&Norm>, from: usize) -> Result<Vec<f32>> {
        let (attention, dim) = (self.attention, self.attention.head_dim as usize);
        if attention.rotated_first {
            self.rotate(&mut heads, from);
        }
        if let Some(n) = n {
            let len = self.bundle.vector(n.weight())?.len();
            if len == from {
                let normed = norm(self.bundle, n, &heads[..from])?;
                heads[..from].copy_from_slice(&normed);
            } else {
                let len = if len == dim { dim } else { heads.len() };
                let parts: Result<Vec<_>> = heads.chunks(len).map(|h| norm(self.bundle, n, h)).collect();
                heads = parts?.concat();
            }
        }
        clip(attention, &mut heads);
        if !attention.rotated_first {
            self.rotate(&mut heads, from);
        }
        Ok(heads)
    }

    fn rotate(&self, heads: &mut [f32], from: usize) {
        let Some(r) = self.attention.rotation else { return };
        let (frequencies, amplitude) = self.bundle.plan().rotations[r as usize].for_context(self.options.context);
        let heads = heads.chunks_mut(self.attention.head_dim as usize);
        heads.for_each(|h| rotate(&mut h[from..], &frequencies, amplitude, self.position));
    }

    /// What the heads bring back for projected queries: `[H · head_dim]`, or `[H · V]` of a latent.
    fn mixed(&self, queries: Vec<f32>, cache: &Cache) -> Result<Vec<f32>> {
        let Some(l) = self.latent() else {
            return self.mix(&self.finish(queries, self.attention.q_norm.as_ref(), 0)?, cache);
        };
        let (heads, rank, dim) = (self.attention.heads as usize, l.rank as usize, self.attention.head_dim as usize);
        let mut absorbed = Vec::new();
        for (h, q) in queries.chunks(queries.len() / heads).enumerate() {
            let (n, r) = q.split_at(l.query as usize);
            absorbed.extend(self.of_head(&l.absorb, h, l.rank, n)?);
            absorbed.extend(r);
        }
        let mixed = self.mix(&self.finish(absorbed, None, rank)?, cache)?;
        let parts = mixed.chunks(dim).enumerate().map(|(h, m)| self.of_head(&l.expand, h, l.value, &m[..rank]));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Head `h`'s matrix of `rows` rows times `x`.
    fn of_head(&self, stack: &str, h: usize, rows: u32, x: &[f32]) -> Result<Vec<f32>> {
        let first = h * Latent::padded(rows) as usize;
        Ok(matvec_rows(self.bundle.matrix(stack)?, first..first + rows as usize, x))
    }

    /// Each query head's mix of values: `[H · head_dim]`.
    fn mix(&self, q: &[f32], cache: &Cache) -> Result<Vec<f32>> {
        let (heads, dim) = (self.attention.heads as usize, self.attention.head_dim as usize);
        let rows = cache.keys.len();
        let first = self.attention.window.map_or(0, |w| rows.saturating_sub(w as usize));
        let values = if cache.values.is_empty() { &cache.keys } else { &cache.values };
        let sinks = self.attention.sinks.as_ref().map(|s| self.bundle.vector(s)).transpose()?;
        let mut out = vec![0.0; heads * dim];
        for (h, (q, out)) in q.chunks(dim).zip(out.chunks_mut(dim)).enumerate() {
            let at = h / (heads / self.state().kv_heads as usize) * dim;
            let mut logits: Vec<f32> = (first..rows).map(|j| dot(q, &cache.keys[j][at..at + dim]) * self.attention.scale).collect();
            logits.extend(sinks.map(|s| s[h]));
            let weights = weights(self.attention.kind, logits, self.options.stick_epsilon);
            for (j, &weight) in (first..rows).zip(&weights) {
                add_scaled(out, &values[j][at..at + dim], weight);
            }
        }
        Ok(out)
    }
}

fn clip(attention: &Attention, y: &mut [f32]) {
    if let Some(c) = attention.clip {
        y.iter_mut().for_each(|v| *v = v.clamp(-c, c));
    }
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

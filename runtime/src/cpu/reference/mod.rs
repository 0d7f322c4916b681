//! The plain reference: one token at a time, one thread, f32 throughout, weights decoded row by row.
//!
//! It defines what a plan means. It is meant to be read, and to be the oracle that the fast CPU and GPU executors are tested against; it
//! is not meant to be fast.

mod attention;
mod ops;
mod router;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bundle::{Bundle, RecordView};
use crate::error::{Error, Result};
use crate::model::{Candidates, Model, Output, Report, Routing, Run, RunOptions, Want};
use crate::plan::{Activation, Convolution, Embedding, Expert, Feature, Join, Linear, Role, SharedFfn, Step, Work};

use ops::{activate, adapted, add_scaled, gated, linear, matvec, norm};
use router::Route;

/// A bundle on the reference executor.
#[derive(Debug)]
pub struct ReferenceModel {
    bundle: Arc<Bundle>,
}

impl ReferenceModel {
    /// Wraps an open bundle; nothing is loaded.
    pub fn new(bundle: Arc<Bundle>) -> ReferenceModel {
        ReferenceModel { bundle }
    }
}

impl Model for ReferenceModel {
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>> {
        let mut run = ReferenceRun { bundle: self.bundle.clone(), options, states: Vec::new(), position: 0 };
        run.reset();
        Ok(Box::new(run))
    }

    fn view(&self, bundle: Arc<Bundle>) -> Result<Box<dyn Model>> {
        Ok(Box::new(ReferenceModel::new(bundle)))
    }

    fn report(&self) -> Report {
        let rows = self.bundle.plan().states.iter().map(|s| if s.tied { 1 } else { 2 } * u64::from(s.kv_heads * s.head_dim));
        Report { device: "reference, 1 thread".into(), kind: "cpu", cache_bytes_per_token: rows.sum::<u64>() * 4, ..Report::default() }
    }
}

/// Rows of one state, oldest first: `[KV · head_dim]` each.
#[derive(Clone, Debug, Default)]
struct Cache {
    keys: VecDeque<Vec<f32>>,
    /// Empty when the state is tied.
    values: VecDeque<Vec<f32>>,
}

struct ReferenceRun {
    bundle: Arc<Bundle>,
    options: RunOptions,
    /// For each state its caches: one, or one for each expert.
    states: Vec<Vec<Cache>>,
    position: usize,
}

/// What one token carries through the plan.
struct Token {
    /// The residual stream and those beside it.
    streams: Vec<Vec<f32>>,
    /// Of recurrent routers.
    memories: Vec<Vec<f32>>,
}

impl Run for ReferenceRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        let plan = self.bundle.plan();
        self.states = vec![vec![Cache::default()]; plan.states.len()];
        for step in &plan.steps {
            if let (Work::Attention(a), Some(r)) = (&step.work, &step.routed)
                && plan.states[a.state as usize].grouped
            {
                self.states[a.state as usize] = vec![Cache::default(); plan.pools[r.pool as usize].experts() as usize];
            }
        }
        self.position = 0;
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        // A failed call must leave the caches as they were.
        let before = (self.position, self.states.clone());
        let result = self.run(tokens, want);
        if result.is_err() {
            (self.position, self.states) = before;
        }
        result
    }
}

impl ReferenceRun {
    fn run(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let mut logits = Vec::new();
        for (i, &token) in tokens.iter().enumerate() {
            let x = self.token(token)?;
            if matches!(want, Want::All) || (i + 1 == tokens.len() && !matches!(want, Want::Nothing)) {
                logits.extend(self.head(&x)?);
            }
        }
        if let Some(i) = logits.iter().position(|l| !l.is_finite()) {
            return Err(Error::NotFinite(format!("the logit {}", logits[i])));
        }
        Ok(match want {
            Want::Nothing => Output::Nothing,
            Want::Last | Want::All => Output::Logits(logits),
            Want::Best(best) => Output::Best(Candidates::select(&mut logits, best)),
        })
    }

    /// The residual stream `[D]` after all steps.
    fn token(&mut self, id: u32) -> Result<Vec<f32>> {
        let bundle = self.bundle.clone();
        let plan = bundle.plan();
        let beside = plan.streams.iter().map(|s| match &s.embedding {
            Some(e) => self.embed(e, s.width, id),
            None => Ok(vec![0.0; s.width as usize]),
        });
        let mut token = Token {
            streams: std::iter::once(self.embed(&plan.embedding, plan.width, id)).chain(beside).collect::<Result<_>>()?,
            memories: plan.memories.iter().map(|&w| vec![0.0; w as usize]).collect(),
        };
        for (index, step) in (0..).zip(&plan.steps) {
            let y = self.step(index, step, &mut token)?;
            let x = &mut token.streams[step.to as usize];
            if step.join == Join::Replace {
                x.fill(0.0);
            }
            add_scaled(x, &y, step.scale);
        }
        self.position += 1;
        Ok(token.streams.swap_remove(0))
    }

    fn embed(&self, e: &Embedding, width: u32, id: u32) -> Result<Vec<f32>> {
        let mut x = vec![0.0; width as usize];
        self.bundle.matrix(&e.table)?.row(id as usize, &mut x);
        x.iter_mut().for_each(|v| *v *= e.scale);
        if let Some(positions) = &e.positions {
            let mut position = vec![0.0; width as usize];
            self.bundle.matrix(positions)?.row(self.position, &mut position);
            add_scaled(&mut x, &position, 1.0);
        }
        Ok(x)
    }

    /// What `step` gives its stream, before its scale. `[D]`
    fn step(&mut self, index: u32, step: &Step, token: &mut Token) -> Result<Vec<f32>> {
        let bundle = &self.bundle;
        let x = &token.streams[step.from as usize];
        let a = match &step.norm {
            Some(n) => norm(bundle, n, x)?,
            None => x.clone(),
        };
        let routes = match &step.routed {
            Some(r) => {
                let feature = match r.router.feature {
                    Feature::Input => &a,
                    Feature::Stream(s) => &token.streams[s as usize],
                };
                router::route(bundle, &r.router, self.options.routing, feature, &mut token.memories)?
            }
            None => Vec::new(),
        };
        let pool = step.routed.as_ref().map(|r| r.pool as usize);
        let mut y = match &step.work {
            Work::Attention(attention) => {
                let routed = pool.zip(Some(&routes[..]));
                let token = attention::Token { bundle, attention, routed, position: self.position, options: self.options };
                token.attend(&a, &mut self.states[attention.state as usize])?
            }
            Work::Ffn(ffn) => {
                let mixture = bundle.plan().adapter.as_ref().and_then(|a| a.mixtures.get(&index));
                let mut y = vec![0.0; a.len()];
                for route in &routes {
                    add_scaled(&mut y, &expert_ffn(bundle, pool.unwrap_or(0), route, &a)?, route.weight);
                }
                if let Some(shared) = &ffn.shared {
                    match mixture {
                        None => add_scaled(&mut y, &shared_ffn(bundle, shared, &a, None)?, 1.0),
                        Some(router) => {
                            for route in router::route(bundle, router, Routing::Planned, &a, &mut [])? {
                                add_scaled(&mut y, &shared_ffn(bundle, shared, &a, Some(route.expert))?, route.weight);
                            }
                        }
                    }
                }
                y
            }
            Work::Convolution(c) => convolve(bundle, c, &a, &mut self.states[c.state as usize][0])?,
            Work::Identity => a,
        };
        if let Some(bias) = &step.bias {
            add_scaled(&mut y, bundle.vector(bias)?, 1.0);
        }
        Ok(y)
    }

    /// Logits `[V]`.
    fn head(&self, x: &[f32]) -> Result<Vec<f32>> {
        let head = &self.bundle.plan().head;
        let mut logits = linear(&self.bundle, &head.output, &norm(&self.bundle, &head.norm, x)?)?;
        logits.iter_mut().for_each(|l| *l *= head.scale);
        Ok(logits)
    }
}

/// The record of a routed expert.
fn record<'a>(bundle: &'a Bundle, pool: usize, expert: u32) -> Result<RecordView<'a>> {
    let record = bundle.plan().pools[pool].record_of(expert).ok_or_else(|| missing("record"))?;
    RecordView::new(bundle.record_layout(pool), bundle.record(pool, record)).ok_or_else(|| missing("record"))
}

fn missing(what: &str) -> Error {
    Error::Input(format!("an expert's {what} is missing"))
}

/// `W · x + b` with the matrix of that role of a routed expert.
fn project(bundle: &Bundle, pool: usize, expert: u32, role: Role, x: &[f32]) -> Result<Vec<f32>> {
    let record = record(bundle, pool, expert)?;
    let mut y = matvec(record.matrix(role).ok_or_else(|| missing("matrix"))?, x);
    if let Some(b) = record.bias(role) {
        add_scaled(&mut y, b, 1.0);
    }
    Ok(y)
}

/// One expert's output `[D]`, not yet weighed.
fn expert_ffn(bundle: &Bundle, pool: usize, route: &Route, a: &[f32]) -> Result<Vec<f32>> {
    let Expert::Ffn { gated, activation, .. } = bundle.plan().pools[pool].expert else {
        return Err(missing("feed-forward signature"));
    };
    if bundle.plan().pools[pool].record_of(route.expert).is_none() {
        return Ok(vec![0.0; a.len()]);
    }
    let up = project(bundle, pool, route.expert, Role::Up, a)?;
    let gate = if gated { Some(project(bundle, pool, route.expert, Role::Gate, a)?) } else { None };
    project(bundle, pool, route.expert, Role::Down, &hidden(up, gate, activation))
}

/// The always-on part's output `[D]`; inside a mixture, with one of the adapter's experts.
fn shared_ffn(bundle: &Bundle, s: &SharedFfn, a: &[f32], expert: Option<u32>) -> Result<Vec<f32>> {
    let gate = s.gate.as_ref().map(|g: &Linear| adapted(bundle, g, a, expert)).transpose()?;
    let mut y = adapted(bundle, &s.down, &hidden(adapted(bundle, &s.up, a, expert)?, gate, s.activation), expert)?;
    if let Some(w) = &s.weigh {
        let logit = linear(bundle, w, a)?[0];
        y.iter_mut().for_each(|v| *v *= ops::sigmoid(logit));
    }
    Ok(y)
}

/// `act(gate) ⊙ up`, or `act(up)`.
fn hidden(mut up: Vec<f32>, gate: Option<Vec<f32>>, activation: Activation) -> Vec<f32> {
    match gate {
        Some(gate) => up.iter_mut().zip(gate).for_each(|(u, g)| *u = gated(activation, g, *u)),
        None => up.iter_mut().for_each(|u| *u = activate(activation, *u)),
    }
    up
}

/// The gated short convolution's output `[D]`; appends the token's row to `cache`.
fn convolve(bundle: &Bundle, c: &Convolution, a: &[f32], cache: &mut Cache) -> Result<Vec<f32>> {
    let (width, taps) = (a.len(), c.taps as usize);
    let projected = linear(bundle, &c.input, a)?;
    let (b, rest) = projected.split_at(width);
    let (gate, x) = rest.split_at(width);
    cache.keys.push_back(b.iter().zip(x).map(|(b, x)| b * x).collect());
    if cache.keys.len() > taps {
        cache.keys.pop_front();
    }
    let mut y = c.bias.as_ref().map_or(Ok(vec![0.0; width]), |b| bundle.vector(b).map(<[f32]>::to_vec))?;
    let kernel = bundle.vector(&c.kernel)?;
    // The newest row meets the last tap.
    for (row, weights) in cache.keys.iter().rev().zip(kernel.chunks(width).rev()) {
        y.iter_mut().zip(row.iter().zip(weights)).for_each(|(y, (u, w))| *y += u * w);
    }
    y.iter_mut().zip(gate).for_each(|(y, c)| *y *= c);
    linear(bundle, &c.output, &y)
}

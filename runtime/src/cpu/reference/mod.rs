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
use crate::model::{Candidates, Model, Output, Report, Run, RunOptions, Want};
use crate::plan::{Activation, Expert, Linear, Plan, Role, SharedFfn, Step, Work};

use ops::{activate, add_scaled, linear, matvec, norm};
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
        let states = vec![Cache::default(); self.bundle.plan().states.len()];
        Ok(Box::new(ReferenceRun { bundle: self.bundle.clone(), options, states, position: 0 }))
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

impl Cache {
    fn truncate(&mut self, rows: usize) {
        self.keys.truncate(rows);
        self.values.truncate(rows);
    }
}

struct ReferenceRun {
    bundle: Arc<Bundle>,
    options: RunOptions,
    states: Vec<Cache>,
    position: usize,
}

impl Run for ReferenceRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        self.states.fill(Cache::default());
        self.position = 0;
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        // A failed call must leave the caches as they were; sliding caches lose rows, so they are copied.
        let before = (self.position, self.options.slide.then(|| self.states.clone()));
        let result = self.run(tokens, want);
        if result.is_err() {
            match before.1 {
                Some(states) => self.states = states,
                None => self.states.iter_mut().for_each(|c| c.truncate(before.0)),
            }
            self.position = before.0;
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
    fn token(&mut self, token: u32) -> Result<Vec<f32>> {
        let bundle = self.bundle.clone();
        let plan = bundle.plan();
        let mut x = vec![0.0; plan.width as usize];
        bundle.matrix(&plan.embedding.table)?.row(token as usize, &mut x);
        x.iter_mut().for_each(|v| *v *= plan.embedding.scale);
        for step in &plan.steps {
            let y = self.step(plan, step, &x)?;
            add_scaled(&mut x, &y, step.scale);
        }
        self.position += 1;
        Ok(x)
    }

    /// What `step` adds to the stream `x`, before its scale. `[D]`
    fn step(&mut self, plan: &Plan, step: &Step, x: &[f32]) -> Result<Vec<f32>> {
        let bundle = &self.bundle;
        let a = match &step.norm {
            Some(n) => norm(bundle, n, x)?,
            None => x.to_vec(),
        };
        let routes = match &step.routed {
            Some(r) => router::route(bundle, &r.router, plan.pools[r.pool as usize].experts(), &a)?,
            None => Vec::new(),
        };
        let pool = step.routed.as_ref().map(|r| r.pool as usize);
        let mut y = match &step.work {
            Work::Attention(attention) => {
                let cache = &mut self.states[attention.state as usize];
                attention::attend(bundle, attention, &a, pool.zip(Some(&routes[..])), cache, self.position, self.options)?
            }
            Work::Ffn(ffn) => {
                let mut y = vec![0.0; x.len()];
                for route in &routes {
                    add_scaled(&mut y, &expert_ffn(bundle, pool.unwrap_or(0), route, &a)?, route.weight);
                }
                if let Some(shared) = &ffn.shared {
                    add_scaled(&mut y, &shared_ffn(bundle, shared, &a)?, 1.0);
                }
                y
            }
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
    let record = bundle.plan().pools[pool].record_of(expert);
    RecordView::new(bundle.record_layout(pool), bundle.record(pool, record)).ok_or_else(|| missing("record"))
}

fn missing(what: &str) -> Error {
    Error::Input(format!("an expert's {what} is missing"))
}

/// `W · x` with the matrix of that role of a routed expert.
fn project(bundle: &Bundle, pool: usize, expert: u32, role: Role, x: &[f32]) -> Result<Vec<f32>> {
    Ok(matvec(record(bundle, pool, expert)?.matrix(role).ok_or_else(|| missing("matrix"))?, x))
}

/// One expert's output `[D]`, not yet weighed.
fn expert_ffn(bundle: &Bundle, pool: usize, route: &Route, a: &[f32]) -> Result<Vec<f32>> {
    let Expert::Ffn { gated, activation, .. } = bundle.plan().pools[pool].expert else {
        return Err(missing("feed-forward signature"));
    };
    let up = project(bundle, pool, route.expert, Role::Up, a)?;
    let gate = if gated { Some(project(bundle, pool, route.expert, Role::Gate, a)?) } else { None };
    project(bundle, pool, route.expert, Role::Down, &hidden(up, gate, activation))
}

/// The always-on part's output `[D]`.
fn shared_ffn(bundle: &Bundle, s: &SharedFfn, a: &[f32]) -> Result<Vec<f32>> {
    let gate = s.gate.as_ref().map(|g: &Linear| linear(bundle, g, a)).transpose()?;
    let mut y = linear(bundle, &s.down, &hidden(linear(bundle, &s.up, a)?, gate, s.activation))?;
    if let Some(w) = &s.weigh {
        let logit = linear(bundle, w, a)?[0];
        y.iter_mut().for_each(|v| *v *= ops::sigmoid(logit));
    }
    Ok(y)
}

/// `act(gate) ⊙ up`, or `act(up)`.
fn hidden(mut up: Vec<f32>, gate: Option<Vec<f32>>, activation: Activation) -> Vec<f32> {
    match gate {
        Some(gate) => up.iter_mut().zip(gate).for_each(|(u, g)| *u *= activate(activation, g)),
        None => up.iter_mut().for_each(|u| *u = activate(activation, *u)),
    }
    up
}

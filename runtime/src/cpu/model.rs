//! The fast CPU executor's ends of the seam: [`CpuModel`] and its runs.

use std::sync::Arc;

use super::best::best;
use super::cache::Head;
use super::context::Context;
use super::forward::{Space, forward, head};
use super::heads::Turns;
use super::kernels::{Kernels, available};
use super::pool::{Pool, default_threads};
use super::report;
use crate::bundle::Bundle;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::model::{Model, Output, Report, Run, RunOptions, Want};
use crate::plan::{State, Work};

/// Most tokens of one batch.
const CHUNK: usize = 512;
/// Fewest: below this, weights are read too often.
const SMALLEST_CHUNK: usize = 32;

/// A bundle on the CPU: SIMD kernels over the mapped file, nothing copied.
pub struct CpuModel {
    shared: Arc<Shared>,
}

/// What all runs of a model use.
struct Shared {
    bundle: Arc<Bundle>,
    kernels: &'static dyn Kernels,
    pool: Pool,
    /// Codec of the caches.
    cache: Codec,
    /// Tokens of a batch.
    chunk: usize,
}

impl std::fmt::Debug for CpuModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuModel").field("bundle", &self.shared.bundle).finish_non_exhaustive()
    }
}

impl CpuModel {
    /// Prepares `bundle` for the best instruction set of this machine and `threads` threads, by default one for each core.
    ///
    /// # Errors
    /// When the system refuses to start threads.
    pub fn new(bundle: Arc<Bundle>, threads: Option<usize>) -> Result<CpuModel> {
        CpuModel::with_kernels(bundle, threads, available()[0])
    }

    fn with_kernels(bundle: Arc<Bundle>, threads: Option<usize>, kernels: &'static dyn Kernels) -> Result<CpuModel> {
        let threads = threads.unwrap_or_else(default_threads).max(1);
        let pool = Pool::new(threads).map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}")))?;
        let plan = bundle.plan();
        let exact = plan.pools.iter().all(|p| p.codec == Codec::F32);
        let cache = if exact { Codec::F32 } else { Codec::F16 };
        // Working memory stays a small part of the bundle's size.
        let affordable = usize::try_from(bundle.len()).unwrap_or(usize::MAX) / 20 / report::working_bytes_per_token(plan);
        let chunk = affordable.clamp(SMALLEST_CHUNK, CHUNK);
        Ok(CpuModel { shared: Arc::new(Shared { bundle, kernels, pool, cache, chunk }) })
    }
}

impl Model for CpuModel {
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>> {
        let mut run = CpuRun { shared: self.shared.clone(), options, caches: Vec::new(), position: 0, space: Space::default() };
        run.reset();
        Ok(Box::new(run))
    }

    fn report(&self) -> Report {
        let Shared { bundle, kernels, pool, cache, .. } = &*self.shared;
        report::report(bundle, kernels.name(), pool.threads(), *cache)
    }
}

struct CpuRun {
    shared: Arc<Shared>,
    options: RunOptions,
    /// For each state, its key/value heads.
    caches: Vec<Vec<Head>>,
    position: usize,
    space: Space,
}

impl Run for CpuRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        let Shared { bundle, cache, chunk, .. } = &*self.shared;
        let plan = bundle.plan();
        let window = |state: usize| {
            let of_step = plan.steps.iter().find_map(|s| match &s.work {
                Work::Attention(a) if a.state as usize == state => a.window,
                _ => None,
            });
            let of_run = self.options.slide.then_some(self.options.context);
            of_step.map(|w| w as usize).into_iter().chain(of_run).min()
        };
        let heads = |(i, s): (usize, &State)| {
            // A batch must not overwrite rows that its own first tokens see, nor a failed one rows that the next one sees.
            let keep = window(i).map(|w| w.saturating_add(*chunk));
            (0..s.kv_heads).map(|_| Head::new(*cache, s.head_dim as usize, keep)).collect()
        };
        self.caches = plan.states.iter().enumerate().map(heads).collect();
        self.position = 0;
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let start = self.position;
        let result = self.batches(tokens, want);
        if result.is_err() {
            // What went into the caches may not be finite. (A cache that slides has lost its oldest rows if an earlier batch of this call
            // succeeded; damaged weights do not let any conversation go on for long.)
            let end = (start + tokens.len()).min(self.position + self.shared.chunk);
            self.position = start;
            for head in self.caches.iter_mut().flatten() {
                head.erase(start..end);
            }
        }
        result
    }
}

impl CpuRun {
    fn batches(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let shared = self.shared.clone();
        let plan = shared.bundle.plan();
        let mut logits = Vec::new();
        let batches = tokens.chunks(shared.chunk);
        let last = batches.len() - 1;
        for (i, tokens) in batches.enumerate() {
            let turns = plan.rotations.iter().map(|r| Turns::new(r, self.position, tokens.len())).collect();
            let c = Context {
                bundle: &shared.bundle,
                kernels: shared.kernels,
                team: shared.pool.team(),
                options: self.options,
                position: self.position,
                turns,
            };
            forward(&c, tokens, &mut self.caches, &mut self.space)?;
            match want {
                Want::All => head(&c, tokens.len(), &mut self.space, &mut logits)?,
                Want::Last | Want::Best(_) if i == last => head(&c, 1, &mut self.space, &mut logits)?,
                _ => {}
            }
            self.position += tokens.len();
        }
        Ok(match want {
            Want::Nothing => Output::Nothing,
            Want::Last | Want::All => Output::Logits(logits),
            Want::Best(request) => Output::Best(best(shared.kernels, &mut logits, request)),
        })
    }
}

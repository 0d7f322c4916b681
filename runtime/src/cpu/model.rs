//! The fast CPU executor's ends of the seam: [`CpuModel`] and its runs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::best::best;
use super::context::{Context, Hold};
use super::forward::{Notes, Space, forward, head};
use super::heads::Turns;
use super::kernels::{Kernels, available};
use super::pool::{Pool, default_threads};
use super::state::Cache;
use super::{needs, report};
use crate::bundle::{Bundle, Reading};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::experts::{Pass, Policy};
use crate::model::{Model, Output, Paging, Report, Run, RunOptions, Want, not_paged};
use crate::profile::{Activations, Recorder, StepNotes, Usage};
use crate::reading::{Host, HostOptions, too_small};
use crate::snapshot::{Reader, Writer};

/// A bundle on the CPU: SIMD kernels over the mapped file, nothing copied.
pub struct CpuModel {
    /// With an adapter, if any.
    bundle: Arc<Bundle>,
    shared: Arc<Shared>,
}

/// What all runs of a model use, with or without adapters.
struct Shared {
    /// Without an adapter.
    bundle: Arc<Bundle>,
    kernels: &'static dyn Kernels,
    pool: Pool,
    /// Codec of the caches.
    cache: Codec,
    /// Tokens of a batch, and how many it may be at most.
    chunk: AtomicUsize,
    most: usize,
    /// Bytes of all runs' caches, where they count. Changed under the lock of `host`.
    caches: AtomicU64,
    /// The experts, when they are not all mapped. A step holds them until it is done.
    host: Option<Mutex<Host>>,
    /// A budget that comes into force as soon as whoever holds the experts looks; 0 is none.
    pending: AtomicU64,
    /// How things stood when somebody could look last.
    status: Mutex<Paging>,
}

impl std::fmt::Debug for CpuModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuModel").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// How a model lives within a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPaging {
    /// Bytes for everything the model takes: dense weights, caches of all runs, working memory, experts.
    pub budget: u64,
    /// Which experts leave first.
    pub policy: Policy,
    /// How experts are read.
    pub reading: Reading,
    /// Whether the next step's likely experts are read ahead.
    pub prefetch: bool,
    /// Whether it is an error when the budget does not hold all experts.
    pub resident: bool,
}

impl CpuModel {
    /// Prepares `bundle` for the best instruction set of this machine and `threads` threads, by default one for each core.
    ///
    /// # Errors
    /// When the system refuses to start threads.
    pub fn new(bundle: Arc<Bundle>, threads: Option<usize>) -> Result<CpuModel> {
        CpuModel::with_kernels(bundle, threads, available()[0])
    }

    /// The same with as many experts in memory as `paging` allows and the others read when they are needed. Results are the same, bit for
    /// bit. [`Bundle::hold_dense`] beforehand keeps the system from taking dense weights back.
    ///
    /// # Errors
    /// Also when the budget is too small; the message names the smallest one.
    pub fn paged(bundle: Arc<Bundle>, threads: Option<usize>, paging: &CpuPaging) -> Result<CpuModel> {
        let CpuModel { mut shared, bundle } = CpuModel::new(bundle, threads)?;
        // Nobody else has it yet.
        if let Some(s) = Arc::get_mut(&mut shared) {
            let CpuPaging { budget, policy, reading, prefetch, resident } = *paging;
            let fixed = s.cut(budget, 0);
            s.host = Some(Mutex::new(Host::new(&s.bundle, HostOptions { budget, fixed, policy, reading, prefetch, resident })?));
        }
        Ok(CpuModel { shared, bundle })
    }

    fn with_kernels(bundle: Arc<Bundle>, threads: Option<usize>, kernels: &'static dyn Kernels) -> Result<CpuModel> {
        let threads = threads.unwrap_or_else(default_threads).max(1);
        let pool = Pool::new(threads).map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}")))?;
        let cache = needs::cache_codec(bundle.plan());
        let most = needs::largest_batch(bundle.plan(), bundle.len());
        let (chunk, caches, host, pending, status) = (most.into(), 0.into(), None, 0.into(), Mutex::default());
        let shared = Shared { bundle: bundle.clone(), kernels, pool, cache, chunk, most, caches, host, pending, status };
        Ok(CpuModel { bundle, shared: Arc::new(shared) })
    }
}

impl Model for CpuModel {
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>> {
        let mut run = CpuRun {
            bundle: self.bundle.clone(),
            shared: self.shared.clone(),
            options,
            caches: Vec::new(),
            position: 0,
            charged: 0,
            chunk: 0,
            space: Space::default(),
            passes: None,
            recorder: None,
            activations: None,
            noted: Vec::new(),
        };
        run.reset();
        Ok(Box::new(run))
    }

    fn report(&self) -> Report {
        let Shared { bundle, kernels, pool, cache, .. } = &*self.shared;
        let paging = self.shared.paging();
        let device_bytes = paging.as_ref().map_or(0, |p| p.fixed + p.slots);
        Report { paging, device_bytes, ..report::report(bundle, kernels.name(), pool.threads(), *cache) }
    }

    fn view(&self, bundle: Arc<Bundle>) -> Result<Box<dyn Model>> {
        let bundle = Arc::new(bundle.holding(&self.shared.bundle));
        Ok(Box::new(CpuModel { bundle, shared: self.shared.clone() }))
    }

    fn set_budget(&self, bytes: u64) -> Result<()> {
        if self.shared.host.is_none() {
            return Err(not_paged());
        }
        let least = self.shared.least();
        if bytes < least {
            return Err(too_small(bytes, least));
        }
        self.shared.pending.store(bytes, Ordering::SeqCst);
        self.shared.catch_up()
    }

    fn heat(&self) -> Option<String> {
        Some(self.shared.hold()?.heat(self.shared.fingerprint()))
    }

    fn set_heat(&self, json: &str) -> Result<()> {
        self.shared.hold().map_or(Ok(()), |mut host| host.set_heat(json, self.shared.fingerprint()))
    }
}

impl Hold for Shared {
    /// Within the budget that was set last.
    fn hold(&self) -> Option<MutexGuard<'_, Host>> {
        let mut host = self.host.as_ref().map(Host::lock)?;
        if let Err(e) = self.settle(&mut host) {
            tracing::warn!("the budget stays as it was: {e}");
        }
        Some(host)
    }
}

impl Shared {
    fn fingerprint(&self) -> &str {
        &self.bundle.manifest().fingerprint
    }

    /// Brings a pending budget into force.
    fn settle(&self, host: &mut Host) -> Result<()> {
        let budget = self.pending.load(Ordering::SeqCst);
        if budget == 0 {
            return Ok(());
        }
        let done = self.fit(host, budget, self.caches.load(Ordering::Relaxed));
        if done.is_ok() {
            self.status.lock().unwrap_or_else(PoisonError::into_inner).budget = budget;
        }
        // Unless another one was set meanwhile.
        let _ = self.pending.compare_exchange(budget, 0, Ordering::SeqCst, Ordering::SeqCst);
        done
    }

    /// Applies a budget that nobody else will: for whoever has set one, and whoever gives the experts back for good. Nobody waits here for a
    /// step to end, so the thread that draws an app may set a budget.
    fn catch_up(&self) -> Result<()> {
        while let Some(host) = self.host.as_ref().filter(|_| self.pending.load(Ordering::SeqCst) != 0) {
            match host.try_lock() {
                Ok(mut host) => self.settle(&mut host)?,
                Err(TryLockError::Poisoned(e)) => self.settle(&mut e.into_inner())?,
                // Whoever holds them looks again when giving them back.
                Err(TryLockError::WouldBlock) => break,
            }
        }
        Ok(())
    }

    /// How it fares, or did before the step under way.
    fn paging(&self) -> Option<Paging> {
        let status = || self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match self.host.as_ref()?.try_lock() {
            Ok(host) => *status() = host.report(self.least()),
            Err(TryLockError::Poisoned(e)) => *status() = e.into_inner().report(self.least()),
            Err(TryLockError::WouldBlock) => {}
        }
        // Somebody may have set a budget while we looked.
        let _ = self.catch_up();
        let status = status().clone();
        let budget = Some(self.pending.load(Ordering::SeqCst)).filter(|b| *b != 0).unwrap_or(status.budget);
        Some(Paging { budget, ..status })
    }

    /// Chooses the size of batches for a budget; returns the bytes that are not for experts when caches take `caches`.
    fn cut(&self, budget: u64, caches: u64) -> u64 {
        let fixed = self.bundle.dense_bytes() + caches;
        let chunk = needs::batch(self.bundle.plan(), budget, fixed + Host::least(&self.bundle), self.most);
        self.chunk.store(chunk, Ordering::Relaxed);
        fixed + (chunk * needs::working_bytes_per_token(self.bundle.plan())) as u64
    }

    /// The smallest budget that works while all runs stay: with the smallest batches.
    fn least(&self) -> u64 {
        let (plan, caches) = (self.bundle.plan(), self.caches.load(Ordering::Relaxed));
        let working = needs::SMALLEST_CHUNK * needs::working_bytes_per_token(plan);
        self.bundle.dense_bytes() + caches + working as u64 + Host::least(&self.bundle)
    }

    /// Makes the experts live with what `caches` leave of a budget. When that is too little, all stays as it was.
    fn fit(&self, host: &mut Host, budget: u64, caches: u64) -> Result<()> {
        let before = self.chunk.load(Ordering::Relaxed);
        let fixed = self.cut(budget, caches);
        host.resize(budget, fixed).inspect_err(|_| self.chunk.store(before, Ordering::Relaxed))?;
        self.caches.store(caches, Ordering::Relaxed);
        Ok(())
    }

    /// Takes bytes for a run's caches, `before` of which it has, from the experts, or gives them back.
    fn charge(&self, before: u64, after: u64) -> Result<()> {
        match self.hold() {
            Some(mut host) if before != after => {
                let budget = host.options().budget;
                self.fit(&mut host, budget, self.caches.load(Ordering::Relaxed) - before + after)
            }
            _ => Ok(()),
        }
    }

    /// Takes `bytes` more for a run's caches, which have `charged`.
    fn grow(&self, charged: &AtomicU64, bytes: u64) -> Result<()> {
        let before = charged.load(Ordering::Relaxed);
        self.charge(before, before + bytes)?;
        charged.store(before + bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for CpuRun {
    fn drop(&mut self) {
        // More room never fails.
        let _ = self.shared.charge(self.charged, 0);
    }
}

struct CpuRun {
    bundle: Arc<Bundle>,
    shared: Arc<Shared>,
    options: RunOptions,
    /// One for each state.
    caches: Vec<Cache>,
    position: usize,
    /// Bytes of caches that count against the budget.
    charged: u64,
    /// Tokens of a batch that `space` may have grown to.
    chunk: usize,
    space: Space,
    /// What passes used, where that is recorded.
    passes: Option<Vec<Pass>>,
    /// What tokens used, likewise.
    recorder: Option<Recorder>,
    /// What experts were given, likewise.
    activations: Option<Mutex<Activations>>,
    /// Notes of the call under way, which count when it succeeds.
    noted: Vec<Vec<StepNotes>>,
}

impl Run for CpuRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        let Shared { cache, most, .. } = &*self.shared;
        // More room never fails.
        let _ = self.shared.charge(std::mem::take(&mut self.charged), 0);
        self.recorder.iter_mut().for_each(Recorder::interrupt);
        self.caches = Cache::all(self.bundle.plan(), *cache, self.options, *most);
        self.position = 0;
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let start = self.position;
        let recorded = self.passes.as_ref().map_or(0, Vec::len);
        self.caches.iter_mut().for_each(Cache::begin);
        self.noted.clear();
        let result = self.batches(tokens, want);
        // A look after the last step, for a budget that was set in it.
        let _ = self.shared.paging();
        if let (Ok(_), Some(recorder)) = (&result, &mut self.recorder) {
            self.noted.drain(..).for_each(|notes| recorder.add(&notes));
        }
        if result.is_err() {
            self.passes.iter_mut().for_each(|p| p.truncate(recorded));
            let end = (start + tokens.len()).min(self.position + self.shared.most);
            self.position = start;
            self.caches.iter_mut().for_each(|cache| cache.undo(start..end));
        }
        result
    }

    fn save(&mut self, to: &mut Writer<'_>) -> Result<()> {
        to.form(&self.form())?;
        to.number(self.position as u64)?;
        self.caches.iter_mut().try_for_each(|cache| cache.save(self.position, to))
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<bool> {
        self.reset();
        if !from.is(&self.form())? {
            return Ok(false);
        }
        self.read_caches(from).inspect_err(|_| self.reset())?;
        Ok(true)
    }

    fn record_passes(&mut self) -> Result<()> {
        self.passes.get_or_insert_default();
        Ok(())
    }

    fn record_use(&mut self) -> Result<()> {
        self.recorder.get_or_insert_with(|| Recorder::new(self.bundle.plan()));
        Ok(())
    }

    fn take_use(&mut self) -> Option<Usage> {
        Some(self.recorder.as_mut()?.take(self.bundle.plan()))
    }

    fn record_activations(&mut self) -> Result<()> {
        self.activations.get_or_insert_with(|| Mutex::new(Activations::new(self.bundle.manifest())));
        Ok(())
    }

    fn take_activations(&mut self) -> Option<Activations> {
        let measured = self.activations.as_mut()?.get_mut().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::replace(measured, Activations::new(self.bundle.manifest())))
    }

    fn take_passes(&mut self) -> Vec<Pass> {
        self.passes.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl CpuRun {
    /// Of what it writes: caches are the same in every instruction set.
    fn form(&self) -> String {
        format!("cpu 1 {:?} {}", self.shared.cache, self.shared.most)
    }

    fn read_caches(&mut self, from: &mut Reader<'_>) -> Result<()> {
        let longest = if self.options.slide { u32::MAX as usize } else { self.options.context };
        let position = from.number(longest as u64)? as usize;
        self.charge_for(position)?;
        let (shared, charged) = (self.shared.clone(), AtomicU64::new(self.charged));
        let grow = |bytes: u64| shared.grow(&charged, bytes);
        let read = self.caches.iter_mut().try_for_each(|cache| cache.restore(position, from, &grow));
        self.charged = charged.load(Ordering::Relaxed);
        self.position = position;
        read
    }

    /// Takes the bytes off the budget that caches of `tokens` tokens need.
    fn charge_for(&mut self, tokens: usize) -> Result<()> {
        if self.shared.host.is_some() {
            let bytes = self.caches.iter().map(|cache| cache.bytes(tokens)).sum::<usize>() as u64;
            self.shared.charge(self.charged, bytes.max(self.charged))?;
            self.charged = bytes.max(self.charged);
        }
        Ok(())
    }

    fn batches(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let (shared, bundle) = (self.shared.clone(), self.bundle.clone());
        let plan = bundle.plan();
        self.charge_for(self.position + tokens.len())?;
        let charged = AtomicU64::new(self.charged);
        let grow = |bytes: u64| shared.grow(&charged, bytes);
        let mut logits = Vec::new();
        let chunk = shared.chunk.load(Ordering::Relaxed);
        if chunk < self.chunk {
            // Working memory has to shrink too.
            self.space = Space::default();
        }
        self.chunk = chunk;
        let batches = tokens.chunks(chunk);
        let last = batches.len() - 1;
        for (i, tokens) in batches.enumerate() {
            if let Some(mut host) = shared.hold() {
                host.begin_pass();
            }
            let lengths = Mutex::default();
            let turns = plan.rotations.iter().map(|r| Turns::new(r, self.options.context, self.position, tokens.len())).collect();
            let c = Context {
                bundle: &bundle,
                kernels: shared.kernels,
                team: shared.pool.team(),
                options: self.options,
                position: self.position,
                turns,
                host: Some(&*shared),
                grow: &grow,
                lengths: self.recorder.as_ref().map(|_| &lengths),
                activations: self.activations.as_ref(),
            };
            let steps = self.recorder.is_some().then(Vec::new);
            let mut notes = Notes { pass: self.passes.is_some().then(Pass::default), steps };
            let result = forward(&c, tokens, &mut self.caches, &mut self.space, &mut notes);
            self.charged = charged.load(Ordering::Relaxed);
            result?;
            self.passes.iter_mut().for_each(|p| p.extend(notes.pass.take()));
            self.noted.extend(notes.steps);
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

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;

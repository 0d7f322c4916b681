//! The engine: a bundle made ready on a device, shared by all its sessions.

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};

use crate::arithmetic::Arithmetic;
use crate::bundle::{Bundle, Manifest};
use crate::error::{Error, Result};
use crate::loading::Loading;
use crate::model::{Model, Report, not_paged};
use crate::paging::{PagingOptions, Placement};
use crate::plan::Plan;
use crate::reading::too_small;
use crate::session::{Gate, Recipe, Seat, Session, SessionOptions};
use crate::text::Tokenizer;
use crate::{cpu, gpu, text};

/// Most CPU threads that may be asked for.
const MAX_THREADS: usize = 1024;

/// Where a model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A hardware GPU if there is one that can hold the model, else the CPU; what a build leaves out does not count.
    #[default]
    Auto,
    /// The CPU (cargo feature `cpu`).
    Cpu,
    /// Any GPU, hardware first; a software adapter where there is no other (cargo feature `gpu`).
    Gpu,
    /// The first GPU whose name contains this, upper and lower case alike. Software adapters count (cargo feature `gpu`).
    Named(String),
    /// The plain executor that others are tested against: exact, slow, one thread (cargo feature `cpu`).
    Reference,
}

impl FromStr for Device {
    type Err = std::convert::Infallible;

    /// `auto`, `cpu`, `gpu`, `reference`; everything else is a part of an adapter's name.
    fn from_str(s: &str) -> std::result::Result<Device, Self::Err> {
        Ok(match s {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "gpu" => Device::Gpu,
            "reference" => Device::Reference,
            name => Device::Named(name.to_owned()),
        })
    }
}

/// How to open a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// Where to run it.
    pub device: Device,
    /// Threads on the CPU; by default one for each core this process may use.
    pub threads: Option<usize>,
    /// How a GPU multiplies with quantised weights; by default what it does fastest.
    pub gpu_arithmetic: Option<Arithmetic>,
    /// Budgets for a model that does not fit.
    pub paging: PagingOptions,
}

/// A bundle made ready on one device. Clones are the same engine; it is `Send` and `Sync`.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    bundle: Arc<Bundle>,
    tokenizer: Option<Tokenizer>,
    /// How to make the model ready again.
    options: Mutex<EngineOptions>,
    model: RwLock<Stage>,
    /// Of all sessions.
    seats: Mutex<Vec<Weak<Seat>>>,
    gate: Arc<Gate>,
    /// Held by whoever suspends or resumes.
    changing: Mutex<()>,
}

/// The model, or what is left of it while the engine is suspended.
enum Stage {
    Ready(Box<dyn Model>),
    /// What it reported, and what it had learned about experts.
    Suspended(Box<Report>, Option<String>),
}

/// Locks what no panic can leave half-done: every change of it is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("bundle", &self.0.bundle).field("report", &self.report()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the bundle at `path` and makes it ready on a device.
    ///
    /// # Errors
    /// When the file is not a usable bundle, there is no such device, or the device has no room for the model.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Engine> {
        Engine::of_bundle(Bundle::open(path)?, options)
    }

    /// Makes an open bundle ready on a device: one that was [pruned](Bundle::pruned), say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_bundle(bundle: Bundle, options: &EngineOptions) -> Result<Engine> {
        Engine::of_bundle_with(bundle, options, &Loading::default())
    }

    /// The same, telling `loading` how far it is.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when `loading` does not want it any more.
    pub fn of_bundle_with(bundle: Bundle, options: &EngineOptions, loading: &Loading) -> Result<Engine> {
        if let Some(n) = options.threads.filter(|n| !(1..=MAX_THREADS).contains(n)) {
            return Err(Error::Input(format!("{n} threads are impossible; choose 1 to {MAX_THREADS}")));
        }
        let bundle = Arc::new(bundle);
        let model = ready(&bundle, options, loading)?;
        let engine = Engine::with_model(bundle, model)?;
        *lock(&engine.0.options) = options.clone();
        loading.end()?;
        Ok(engine)
    }

    pub(crate) fn with_model(bundle: Arc<Bundle>, model: Box<dyn Model>) -> Result<Engine> {
        let tokenizer = Tokenizer::of(&bundle)?;
        let model = RwLock::new(Stage::Ready(model));
        let (options, seats, gate, changing) = Default::default();
        let engine = Engine(Arc::new(Inner { bundle, tokenizer, options, model, seats, gate, changing }));
        tracing::info!(bundle = %engine.bundle().path().display(), device = engine.report().device, "ready");
        Ok(engine)
    }

    /// Starts a conversation. Sessions of one engine share the weights and nothing else.
    ///
    /// # Errors
    /// When an option is out of range or the device has no room for the caches.
    pub fn session(&self, options: &SessionOptions) -> Result<Session> {
        Session::start(self.clone(), options)
    }

    /// The file behind it.
    pub fn bundle(&self) -> &Bundle {
        &self.0.bundle
    }

    /// What the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        self.0.bundle.manifest()
    }

    /// What the model computes.
    pub fn plan(&self) -> &Plan {
        self.0.bundle.plan()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the bundle has none, or the build (cargo feature `tokenizer`): it runs on token ids only.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.0.tokenizer.as_ref().ok_or_else(text::missing)
    }

    /// What runs where. While the engine is [suspended](Self::suspend), what did before, with nothing on the device.
    pub fn report(&self) -> Report {
        match &*self.stage() {
            Stage::Ready(model) => model.report(),
            Stage::Suspended(report, _) => Report::clone(report),
        }
    }

    /// Changes the bytes that the model may take of its device's memory, from any thread, also in the middle of a generation: what no longer
    /// fits is given back before the next step. Answers do not change. While the engine is suspended, the budget it comes back with.
    ///
    /// # Errors
    /// When the engine was opened without a budget for its device, or this one is too small; the message names the smallest.
    pub fn set_budget(&self, bytes: u64) -> Result<()> {
        let stage = self.stage();
        let kind = match &*stage {
            Stage::Ready(model) => {
                model.set_budget(bytes)?;
                model.report().kind
            }
            Stage::Suspended(report, _) => {
                let least = report.paging.as_ref().ok_or_else(not_paged)?.least;
                if bytes < least {
                    return Err(too_small(bytes, least));
                }
                report.kind
            }
        };
        lock(&self.0.options).paging.set(kind, bytes);
        Ok(())
    }

    /// What was learned about which experts are used, to be kept for [`PagingOptions::heat`] of the next start; `None` without a budget.
    pub fn heat(&self) -> Option<String> {
        match &*self.stage() {
            Stage::Ready(model) => model.heat(),
            Stage::Suspended(_, heat) => heat.clone(),
        }
    }

    /// Gives back everything that the model and its sessions hold on the device, and the memory that was read through the file's mapping: for an
    /// app that goes to the background, where the system takes GPUs away and ends whoever holds most memory. The caches of sessions are kept
    /// in the system's memory, as far as they are filled.
    ///
    /// A generation under way, on another thread, stops after the token (or the chunk of a prompt) it is at, and waits; after
    /// [`resume`](Self::resume) it goes on as if nothing had happened. One that begins while the engine is suspended waits, too; cancelling ends
    /// the wait. No session starts meanwhile: that is an [`Error::Suspended`]. Returns when the memory is free; suspending twice is suspending
    /// once.
    ///
    /// # Errors
    /// None so far. A device that has failed already gives nothing to keep: conversations are read again after resuming.
    pub fn suspend(&self) -> Result<()> {
        let inner = &*self.0;
        let _changing = lock(&inner.changing);
        // No session may start between the list and the gate.
        let seats: Vec<Arc<Seat>> = {
            let seats = lock(&inner.seats);
            inner.gate.close();
            seats.iter().filter_map(Weak::upgrade).collect()
        };
        seats.iter().for_each(|seat| seat.park());
        let mut stage = inner.model.write().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Ready(model) = &*stage {
            *stage = Stage::Suspended(Box::new(idle(model.report())), model.heat());
        }
        inner.bundle.release();
        Ok(())
    }

    /// Makes a suspended engine ready again, with the budget in force and what was learned about experts. Generations that wait go on.
    ///
    /// Their answers are the same, bit for bit, when the engine is ready on the same kind of device as before; otherwise conversations are read again
    /// there.
    ///
    /// # Errors
    /// When the device has gone or has no room; the engine stays suspended, and nothing is lost.
    pub fn resume(&self) -> Result<()> {
        let inner = &*self.0;
        let _changing = lock(&inner.changing);
        let heat = match &*self.stage() {
            Stage::Ready(_) => return Ok(()),
            Stage::Suspended(_, heat) => heat.clone(),
        };
        let mut options = lock(&inner.options).clone();
        options.paging.heat = heat.or(options.paging.heat);
        let model = ready(&inner.bundle, &options, &Loading::default())?;
        let seats: Vec<Arc<Seat>> = lock(&inner.seats).iter().filter_map(Weak::upgrade).collect();
        let runs = seats.iter().map(|seat| seat.rebuilt(model.as_ref())).collect::<Result<Vec<_>>>()?;
        *inner.model.write().unwrap_or_else(PoisonError::into_inner) = Stage::Ready(model);
        seats.iter().zip(runs).for_each(|(seat, run)| run.into_iter().for_each(|run| seat.settle(run)));
        inner.gate.open();
        Ok(())
    }

    /// Whether it is suspended, or about to be.
    pub fn is_suspended(&self) -> bool {
        self.0.gate.is_closed()
    }

    fn stage(&self) -> RwLockReadGuard<'_, Stage> {
        self.0.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a session's run.
    pub(crate) fn seat(&self, recipe: Recipe) -> Result<Arc<Seat>> {
        let mut seats = lock(&self.0.seats);
        if self.is_suspended() {
            return Err(Error::Suspended);
        }
        let Stage::Ready(model) = &*self.stage() else { return Err(Error::Suspended) };
        let seat = Arc::new(Seat::new(recipe, model.as_ref(), self.0.gate.clone())?);
        seats.retain(|s| s.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        Ok(seat)
    }
}

/// What a model reported, now that it holds nothing.
fn idle(mut report: Report) -> Report {
    report.device_bytes = 0;
    report.paging.iter_mut().for_each(|p| (p.fixed, p.slots) = (0, 0));
    report
}

/// Makes `bundle` ready on the device that `options` ask for.
fn ready(bundle: &Arc<Bundle>, options: &EngineOptions, loading: &Loading) -> Result<Box<dyn Model>> {
    let PagingOptions { budget, vram, ram, .. } = options.paging;
    let useless = |flag: &str, device: &str, other: &str| {
        Error::Input(format!("a budget of {flag} means nothing on {device}, whose memory is limited by {other}"))
    };
    let model = match &options.device {
        Device::Cpu if vram.is_some() => return Err(useless("vram", "the CPU", "ram")),
        Device::Gpu | Device::Named(_) if ram.is_some() && vram.or(budget).is_none() => return Err(useless("ram alone", "a GPU", "vram")),
        Device::Reference if vram.or(ram).or(budget).is_some() => {
            return Err(Error::Input("the reference executor maps the whole file and has no budget".into()));
        }
        Device::Cpu if options.paging.placement == Placement::Hybrid => {
            return Err(Error::Input("hybrid placement needs a GPU for the CPU to help".into()));
        }
        Device::Cpu => cpu::open(bundle, options, loading)?,
        Device::Reference => cpu::open_reference(bundle)?,
        Device::Gpu | Device::Named(_) => gpu::open(bundle, options, loading)?,
        Device::Auto if !cfg!(feature = "gpu") => cpu::open(bundle, options, loading)?,
        Device::Auto => match gpu::open(bundle, options, loading) {
            Err(e) if cfg!(feature = "cpu") && !matches!(e, Error::Stopped) => {
                tracing::warn!("taking the CPU: {e}");
                cpu::open(bundle, options, loading)?
            }
            opened => opened?,
        },
    };
    if let Some(heat) = &options.paging.heat {
        model.set_heat(heat)?;
    }
    Ok(model)
}

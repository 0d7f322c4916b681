//! The engine: a bundle made ready on a device, shared by all its sessions.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::arithmetic::Arithmetic;
use crate::bundle::{Bundle, Manifest};
use crate::error::{Error, Result};
use crate::loading::Loading;
use crate::model::{Model, Report};
use crate::paging::{PagingOptions, Placement};
use crate::plan::Plan;
use crate::session::{Session, SessionOptions};
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
    model: Box<dyn Model>,
    tokenizer: Option<Tokenizer>,
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
        Engine::of_bundle_with(bundle, options, &Loading::UNHEARD)
    }

    /// The same, telling `loading` how far it is.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when `loading` does not want it any more.
    pub fn of_bundle_with(bundle: Bundle, options: &EngineOptions, loading: &Loading) -> Result<Engine> {
        if let Some(n) = options.threads.filter(|n| !(1..=MAX_THREADS).contains(n)) {
            return Err(Error::Input(format!("{n} threads are impossible; choose 1 to {MAX_THREADS}")));
        }
        loading.begin(1)?;
        let mut bundle = Arc::new(bundle);
        let model = ready(&mut bundle, options)?;
        if let Some(heat) = &options.paging.heat {
            model.set_heat(heat)?;
        }
        Engine::with_model(bundle, model)
    }

    pub(crate) fn with_model(bundle: Arc<Bundle>, model: Box<dyn Model>) -> Result<Engine> {
        let tokenizer = Tokenizer::of(&bundle)?;
        let engine = Engine(Arc::new(Inner { bundle, model, tokenizer }));
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

    /// What runs where.
    pub fn report(&self) -> Report {
        self.0.model.report()
    }

    /// Changes the bytes that the model may take of its device's memory, from any thread, also in the middle of a generation: what no longer
    /// fits is given back before the next step. Answers do not change.
    ///
    /// # Errors
    /// When the engine was opened without a budget for its device, or this one is too small; the message names the smallest.
    pub fn set_budget(&self, bytes: u64) -> Result<()> {
        self.0.model.set_budget(bytes)
    }

    /// TODO
    pub fn suspend(&self) -> Result<()> {
        Ok(())
    }

    /// TODO
    pub fn resume(&self) -> Result<()> {
        Ok(())
    }

    /// TODO
    pub fn is_suspended(&self) -> bool {
        false
    }

    /// What was learned about which experts are used, to be kept for [`PagingOptions::heat`] of the next start; `None` without a budget.
    pub fn heat(&self) -> Option<String> {
        self.0.model.heat()
    }

    pub(crate) fn model(&self) -> &dyn Model {
        self.0.model.as_ref()
    }
}

/// Makes `bundle` ready on the device that `options` ask for.
fn ready(bundle: &mut Arc<Bundle>, options: &EngineOptions) -> Result<Box<dyn Model>> {
    let PagingOptions { vram, ram, .. } = options.paging;
    let useless = |flag: &str, device: &str, other: &str| {
        Error::Input(format!("a budget of {flag} means nothing on {device}, whose memory is limited by {other}"))
    };
    match &options.device {
        Device::Cpu if vram.is_some() => Err(useless("vram", "the CPU", "ram")),
        Device::Gpu | Device::Named(_) if ram.is_some() && vram.is_none() => Err(useless("ram alone", "a GPU", "vram")),
        Device::Reference if vram.or(ram).is_some() => {
            Err(Error::Input("the reference executor maps the whole file and has no budget".into()))
        }
        Device::Cpu if options.paging.placement == Placement::Hybrid => {
            Err(Error::Input("hybrid placement needs a GPU for the CPU to help".into()))
        }
        Device::Cpu => cpu::open(bundle, options),
        Device::Reference => cpu::open_reference(bundle),
        Device::Gpu | Device::Named(_) => gpu::open(bundle, options),
        Device::Auto if !cfg!(feature = "gpu") => cpu::open(bundle, options),
        Device::Auto => gpu::open(bundle, options).or_else(|e| {
            if !cfg!(feature = "cpu") {
                return Err(e);
            }
            tracing::warn!("taking the CPU: {e}");
            cpu::open(bundle, options)
        }),
    }
}

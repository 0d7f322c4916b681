//! The GPU executor, the only place that names `wgpu`.
//!
//! * [`adapters`] and `device`: what there is, and one of them open;
//! * `weights` and `slabs`: dense tensors and experts on the device, in the file's own layout;
//! * `arithmetic` and `measure`: how quantised weights are multiplied, by what is fastest on the device;
//! * `lower`: each step of the plan as a few dispatches, their buffers bound once;
//! * `program`: those dispatches, recorded anew for every batch with parameters that follow from it;
//! * `run`: one conversation: caches, batches, results; `memory`: its buffers, counted before they are made; `snapshot`: its caches, to be
//!   kept elsewhere;
//! * `paged`, `budget` and `pager`: experts under a budget; `backing`, `staged` and `import`: how their bytes get into slots; `hybrid`: or the
//!   CPU computes them.
//!
//! Everything between token id and candidates happens on the device. All sums run in an order that depends on shapes alone, so a result
//! never depends on timing.
//!
//! # Routes
//!
//! A step gives every token as many entries in `ids` and `weights` as its router may ever choose. Entries that are not used, and experts that
//! compute nothing, say so, and every kernel skips them. Where experts have keys and values of their own, a conversation has a row for each
//! route and each expert a list of its rows, so memory grows with the routes of a token and not with the number of experts.
//!
//! # Paging
//!
//! Under a [budget](GpuOptions::budget) a model takes so many bytes and no more: dense weights, the memory of every run, staging, and slots
//! with what is left. Slots are equal cells of a few large buffers; `slot_of`, a table on the device, says which slot holds which expert, and
//! the [store](crate::experts) decides who leaves. Kernels know nothing of it but the table: a route whose expert is missing is skipped.
//!
//! *One token* runs ahead of the CPU. `route` looks its choice up; where an expert is missing it closes the latch, a few bytes that every
//! later kernel looks at first, and everything behind returns at once. The experts of that step that are there still compute. The CPU hands
//! over a window of steps, waits, and reads the latch and what was chosen. After a stall it reads the missing experts into slots, shows only
//! these in the second half of the table, lets the step's experts run once more with that half, opens the latch, and goes on with what
//! follows: no step is repeated, and no route computed twice. The window doubles while nothing is missing, and shrinks to the length of the
//! last clean stretch otherwise; when all experts are there it is the whole token, so a token costs one synchronisation.
//!
//! *A batch* chooses many experts at every step, more than there may be slots for. The choice comes back once for each step; the experts
//! that are there compute first, the others come wave by wave, the next wave being read while one computes.
//!
//! Every route has a row of its own, which the next step adds up in the order of the routes. So it does not matter when an expert came or in
//! which slot it was: results are the same, bit for bit, under every budget.
//!
//! The budget may change at any moment ([`Model::set_budget`]): before the next step the slots are given back and cut anew, empty.
//! While a model is being opened its weights pass through a few dozen MiB of staging that the budget does not count.

mod adapter;
mod arithmetic;
mod backing;
mod budget;
mod cache;
mod decode;
mod device;
mod hybrid;
#[cfg(any(target_os = "linux", target_os = "android", windows))]
mod import;
mod latch;
mod lower;
mod measure;
mod memory;
mod meter;
mod noted;
mod paged;
mod pager;
mod prefill;
mod program;
mod run;
mod scratch;
mod slabs;
mod snapshot;
mod staged;
mod table;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

pub use crate::paging::Placement;
pub use adapter::{AdapterChoice, AdapterReport, adapters};
pub use arithmetic::Arithmetic;

use crate::bundle::{Bundle, Reading};
use crate::error::{Error, Result};
use crate::experts::Policy;
use crate::loading::Loading;
use crate::model::{Model, Report, Routing, Run, RunOptions, not_paged};
use crate::plan::{State, Step, Work};
use device::Device;
use paged::Paged;
use run::GpuRun;
use slabs::Slabs;
use weights::Weights;

/// How to open a device, and how much of it to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Which one.
    pub adapter: AdapterChoice,
    /// Bind at most this many bytes at once, when the device would allow more.
    pub binding_limit: Option<u64>,
    /// Use subgroup operations where the device has them.
    pub subgroups: bool,
    /// How products with q8 and q4 weights are computed. By default what a measurement of about a tenth of a second finds fastest; on a
    /// software adapter, f32.
    pub arithmetic: Option<Arithmetic>,
    /// Bytes that everything together may take: weights, caches of all runs, working memory, slots of experts. `None`: as many as it takes
    /// to hold the whole model.
    pub budget: Option<u64>,
    /// Bytes of the system's memory that keep experts which the GPU has no slot for; only with a budget. `None`: they come from the file.
    pub host_budget: Option<u64>,
    /// What a budget means for experts.
    pub placement: Placement,
    /// Which expert leaves when another needs its slot.
    pub policy: Policy,
    /// How experts are brought from the file.
    pub reading: Reading,
    /// Reads experts straight into memory that the GPU shares with the CPU, where there is such memory.
    pub import: bool,
    /// How many steps that choose experts a token runs ahead of the CPU; by default as many as experience suggests.
    pub run_ahead: Option<u32>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            adapter: AdapterChoice::Hardware,
            binding_limit: None,
            subgroups: true,
            arithmetic: None,
            budget: None,
            host_budget: None,
            placement: Placement::default(),
            policy: Policy::default(),
            reading: Reading::default(),
            import: true,
            run_ahead: None,
        }
    }
}

/// A bundle on a GPU.
pub struct GpuModel {
    loaded: Arc<Loaded>,
    /// The loaded one, or a view of it.
    bundle: Arc<Bundle>,
    report: Report,
}

/// What all runs of a model share.
struct Loaded {
    bundle: Arc<Bundle>,
    device: Device,
    weights: Weights,
    experts: Experts,
    run_ahead: Option<u32>,
}

/// The experts on the device.
enum Experts {
    /// All of them.
    Resident(Slabs),
    /// As many as a budget allows.
    Paged(Box<Paged>),
}

impl GpuModel {
    /// Opens a device, uploads everything and compiles every kernel the plan needs.
    ///
    /// # Errors
    /// When there is no such device, it lacks room or the arithmetic asked for, or a driver refuses a kernel.
    pub fn new(bundle: Arc<Bundle>, options: &GpuOptions) -> Result<GpuModel> {
        GpuModel::new_with(bundle, options, &Loading::default())
    }

    /// The same, telling `loading` how far it is.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when `loading` does not want it any more.
    pub fn new_with(bundle: Arc<Bundle>, options: &GpuOptions, loading: &Loading) -> Result<GpuModel> {
        let resident = if options.budget.is_none() { bundle.catalogue().bytes() } else { 0 };
        loading.begin(bundle.dense_bytes() + resident)?;
        let mut device = Device::open(options)?;
        device.loading = loading.clone();
        device.arithmetic = arithmetic::settle(&device, options.arithmetic, &bundle)?;
        let (measured, arithmetic) = (options.arithmetic.is_none(), device.arithmetic);
        match GpuModel::load(device, bundle.clone(), options) {
            // Not all kernels were measured, and a driver may refuse another one.
            Err(e @ Error::Device(_)) if measured && arithmetic != Arithmetic::Float => {
                tracing::warn!("trying again without {arithmetic} arithmetic: {e}");
                GpuModel::new_with(bundle, &GpuOptions { arithmetic: Some(Arithmetic::Float), ..options.clone() }, loading)
            }
            result => result,
        }
    }

    fn load(device: Device, bundle: Arc<Bundle>, options: &GpuOptions) -> Result<GpuModel> {
        let weights = Weights::new(&device, bundle.clone())?;
        let experts = match options.budget {
            None => Experts::Resident(Slabs::resident(&device, &bundle)?),
            Some(_) => Experts::Paged(Box::new(Paged::new(&device, &bundle, options)?)),
        };
        let loaded = Arc::new(Loaded { bundle, device, weights, experts, run_ahead: options.run_ahead });
        // Lowering is what uploads matrices and compiles kernels; a run of one token does it once for all.
        let first = GpuRun::new(loaded.clone(), loaded.bundle.clone(), RunOptions::new(1))?;
        let report = report(&loaded, &first);
        drop(first);
        if let (Experts::Paged(paged), Some(limit)) = (&loaded.experts, options.budget) {
            paged.settle(&loaded.device, limit, loaded.weights.bytes())?;
        }
        Ok(GpuModel { bundle: loaded.bundle.clone(), loaded, report })
    }
}

impl Model for GpuModel {
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>> {
        Ok(Box::new(GpuRun::new(self.loaded.clone(), self.bundle.clone(), options)?))
    }

    fn view(&self, bundle: Arc<Bundle>) -> Result<Box<dyn Model>> {
        if bundle.plan().adapter.is_some() {
            return Err(Error::Input("adapters run on the CPU only; open the bundle there".into()));
        }
        Ok(Box::new(GpuModel { loaded: self.loaded.clone(), bundle, report: self.report.clone() }))
    }

    fn report(&self) -> Report {
        match &self.loaded.experts {
            Experts::Resident(_) => self.report.clone(),
            Experts::Paged(paged) => {
                let paging = paged.paging(&self.loaded.device);
                Report { device_bytes: paging.fixed + paging.slots, paging: Some(paging), ..self.report.clone() }
            }
        }
    }

    fn set_budget(&self, bytes: u64) -> Result<()> {
        match &self.loaded.experts {
            Experts::Resident(_) => Err(not_paged()),
            Experts::Paged(paged) => paged.set(&self.loaded.device, bytes),
        }
    }

    fn heat(&self) -> Option<String> {
        match &self.loaded.experts {
            Experts::Resident(_) => None,
            Experts::Paged(paged) => {
                paged.with(&self.loaded.device, |pager| Ok(pager.heat(&self.loaded.bundle.manifest().fingerprint))).ok()
            }
        }
    }

    fn set_heat(&self, json: &str) -> Result<()> {
        match &self.loaded.experts {
            Experts::Resident(_) => Ok(()),
            Experts::Paged(paged) => {
                paged.with(&self.loaded.device, |pager| pager.set_heat(json, &self.loaded.bundle.manifest().fingerprint))
            }
        }
    }
}

fn report(loaded: &Loaded, run: &GpuRun) -> Report {
    let (plan, adapter) = (loaded.bundle.plan(), &loaded.device.report);
    let lanes = match loaded.device.lanes {
        hotset_shaders::Lanes::Subgroup => format!("subgroups of {}", adapter.subgroup.1),
        hotset_shaders::Lanes::Workgroup => "no subgroups".into(),
    };
    let products = match arithmetic::quantised(&loaded.bundle) {
        Some(_) => format!(", {} products", loaded.device.arithmetic),
        None => String::new(),
    };
    let rows = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Attention(a) => Some((&plan.states[a.state as usize], step)),
        Work::Convolution(_) | Work::Ffn(_) | Work::Identity => None,
    });
    let row = |(s, step): (&State, &Step)| {
        let rows = if s.grouped { scratch::routes(plan, step, Routing::Planned) } else { 1 } * if s.tied { 1 } else { 2 };
        u64::from(rows) * u64::from(s.kv_heads) * u64::from(s.head_dim.next_multiple_of(4))
    };
    let rows: u64 = rows.map(row).sum();
    let (dispatches_per_step, dispatches_per_token) = run.dispatches();
    Report {
        device: format!("{}, {}, {lanes}{products}", adapter.name, adapter.backend),
        kind: "gpu",
        device_bytes: loaded.weights.bytes()
            + match &loaded.experts {
                Experts::Resident(slabs) => slabs.bytes(),
                Experts::Paged(_) => 0,
            },
        cache_bytes_per_token: rows * 4,
        weight_bytes_per_token: loaded.bundle.weight_bytes_per_token(),
        dispatches_per_token,
        dispatches_per_step,
        paging: None,
    }
}

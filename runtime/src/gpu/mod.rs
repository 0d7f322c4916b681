//! The GPU executor, the only place that names `wgpu`.
//!
//! * [`adapters`] and `device`: what there is, and one of them open;
//! * `weights` and `slabs`: dense tensors and experts on the device, in the file's own layout;
//! * `arithmetic` and `measure`: how quantised weights are multiplied, by what is fastest on the device;
//! * `lower`: each step of the plan as a few dispatches, their buffers bound once;
//! * `program`: those dispatches, recorded anew for every batch with parameters that follow from it;
//! * `run`: one conversation: caches, batches, results.
//!
//! Everything between token id and candidates happens on the device. All sums run in an order that depends on shapes alone, so a result
//! never depends on timing.

mod adapter;
mod arithmetic;
mod device;
mod lower;
mod measure;
mod program;
mod run;
mod scratch;
mod slabs;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

pub use adapter::{AdapterChoice, AdapterReport, adapters};
pub use arithmetic::Arithmetic;

use crate::bundle::Bundle;
use crate::error::Result;
use crate::model::{Model, Report, Run, RunOptions};
use device::Device;
use run::GpuRun;
use slabs::Slabs;
use weights::Weights;

/// How to open a device.
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
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions { adapter: AdapterChoice::Hardware, binding_limit: None, subgroups: true, arithmetic: None }
    }
}

/// A bundle on a GPU.
pub struct GpuModel {
    loaded: Arc<Loaded>,
    report: Report,
}

/// What all runs of a model share.
struct Loaded {
    bundle: Arc<Bundle>,
    device: Device,
    weights: Weights,
    slabs: Slabs,
}

impl GpuModel {
    /// Opens a device, uploads everything and compiles every kernel the plan needs.
    ///
    /// # Errors
    /// When there is no such device, it lacks room or the arithmetic asked for, or a driver refuses a kernel.
    pub fn new(bundle: Arc<Bundle>, options: &GpuOptions) -> Result<GpuModel> {
        let mut device = Device::open(options)?;
        device.arithmetic = arithmetic::settle(&device, options.arithmetic, &bundle)?;
        let (measured, arithmetic) = (options.arithmetic.is_none(), device.arithmetic);
        match GpuModel::load(device, bundle.clone()) {
            // Not all kernels were measured, and a driver may refuse another one.
            Err(e) if measured && arithmetic != Arithmetic::Float => {
                tracing::warn!("trying again without {arithmetic} arithmetic: {e}");
                GpuModel::new(bundle, &GpuOptions { arithmetic: Some(Arithmetic::Float), ..options.clone() })
            }
            result => result,
        }
    }

    fn load(device: Device, bundle: Arc<Bundle>) -> Result<GpuModel> {
        let weights = Weights::new(&device, bundle.clone())?;
        let slabs = Slabs::new(&device, &bundle)?;
        let loaded = Arc::new(Loaded { bundle, device, weights, slabs });
        // Lowering is what uploads matrices and compiles kernels; a run of one token does it once for all.
        let first = GpuRun::new(loaded.clone(), RunOptions { context: 1, slide: false, stick_epsilon: 0.0 })?;
        let report = report(&loaded, &first);
        Ok(GpuModel { loaded, report })
    }
}

impl Model for GpuModel {
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>> {
        Ok(Box::new(GpuRun::new(self.loaded.clone(), options)?))
    }

    fn report(&self) -> Report {
        self.report.clone()
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
    let rows: u64 =
        plan.states.iter().map(|s| u64::from(s.kv_heads) * u64::from(s.head_dim.next_multiple_of(4)) * if s.tied { 1 } else { 2 }).sum();
    let (dispatches_per_step, dispatches_per_token) = run.dispatches();
    Report {
        device: format!("{}, {}, {lanes}{products}", adapter.name, adapter.backend),
        kind: "gpu",
        device_bytes: loaded.weights.bytes() + loaded.slabs.bytes(),
        cache_bytes_per_token: rows * 4,
        weight_bytes_per_token: loaded.bundle.weight_bytes_per_token(),
        dispatches_per_token,
        dispatches_per_step,
        paging: None,
    }
}

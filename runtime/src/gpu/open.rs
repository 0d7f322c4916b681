//! A model on the GPU that an engine was asked for.

use std::sync::Arc;

use super::{AdapterChoice, GpuModel, GpuOptions};
use crate::bundle::Bundle;
use crate::engine::{Device, EngineOptions};
use crate::error::Result;
use crate::loading::Loading;
use crate::model::Model;
use crate::paging::PagingOptions;

/// Makes `bundle` ready on the GPU that `options` name; without a name, hardware only unless they insist on a GPU.
pub(crate) fn open(bundle: &Arc<Bundle>, options: &EngineOptions, loading: &Loading) -> Result<Box<dyn Model>> {
    let adapter = match &options.device {
        Device::Named(name) => AdapterChoice::Named(name.clone()),
        Device::Gpu => AdapterChoice::Any,
        _ => AdapterChoice::Hardware,
    };
    let PagingOptions { budget, vram, ram, policy, reading, placement, .. } = options.paging;
    let budget = vram.or(budget);
    let host_budget = ram.filter(|_| budget.is_some());
    let gpu = GpuOptions { arithmetic: options.gpu_arithmetic, budget, host_budget, policy, reading, placement, ..GpuOptions::on(adapter) };
    Ok(Box::new(GpuModel::new_with(bundle.clone(), &gpu, loading)?))
}

//! A model on the CPU that an engine was asked for.

use std::sync::Arc;

use super::reference::ReferenceModel;
use super::{CpuModel, CpuPaging};
use crate::bundle::Bundle;
use crate::engine::EngineOptions;
use crate::error::Result;
use crate::model::Model;
use crate::paging::{PagingOptions, Placement};

/// Makes `bundle` ready on the CPU.
pub(crate) fn open(bundle: &mut Arc<Bundle>, options: &EngineOptions) -> Result<Box<dyn Model>> {
    let PagingOptions { ram, policy, reading, prefetch, placement, .. } = options.paging;
    let Some(budget) = ram else {
        return Ok(Box::new(CpuModel::new(bundle.clone(), options.threads)?));
    };
    // The system must not take dense weights back to make room for what we read. Nobody else has the bundle yet.
    if let Some(bundle) = Arc::get_mut(bundle) {
        bundle.hold_dense()?;
    }
    let paging = CpuPaging { budget, policy, reading, prefetch, resident: placement == Placement::Resident };
    Ok(Box::new(CpuModel::paged(bundle.clone(), options.threads, &paging)?))
}

/// Wraps `bundle` for the reference executor.
pub(crate) fn open_reference(bundle: &Arc<Bundle>) -> Result<Box<dyn Model>> {
    Ok(Box::new(ReferenceModel::new(bundle.clone())))
}

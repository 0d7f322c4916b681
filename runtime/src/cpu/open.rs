//! A model on the CPU that an engine was asked for.

use std::sync::Arc;

use super::reference::ReferenceModel;
use super::{CpuModel, CpuPaging};
use crate::bundle::Bundle;
use crate::engine::EngineOptions;
use crate::error::Result;
use crate::loading::Loading;
use crate::model::Model;
use crate::paging::{PagingOptions, Placement};

/// Makes `bundle` ready on the CPU.
pub(crate) fn open(bundle: &Arc<Bundle>, options: &EngineOptions, loading: &Loading) -> Result<Box<dyn Model>> {
    let PagingOptions { budget, ram, policy, reading, prefetch, placement, .. } = options.paging;
    let Some(budget) = ram.or(budget) else {
        return Ok(Box::new(CpuModel::new(bundle.clone(), options.threads)?));
    };
    // The system must not take dense weights back to make room for what we read. The copy is the model's, and goes with it.
    let mut own = bundle.holding(bundle);
    loading.begin(bundle.dense_bytes())?;
    own.hold_dense_with(|bytes| loading.add(bytes))?;
    let paging = CpuPaging { budget, policy, reading, prefetch, resident: placement == Placement::Resident };
    Ok(Box::new(CpuModel::paged(Arc::new(own), options.threads, &paging)?))
}

/// Wraps `bundle` for the reference executor.
pub(crate) fn open_reference(bundle: &Arc<Bundle>) -> Result<Box<dyn Model>> {
    Ok(Box::new(ReferenceModel::new(bundle.clone())))
}

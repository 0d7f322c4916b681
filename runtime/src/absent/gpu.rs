//! For `gpu`.

use std::sync::Arc;

use super::without;
use crate::bundle::Bundle;
use crate::engine::EngineOptions;
use crate::error::{Error, Result};
use crate::loading::Loading;
use crate::model::Model;

pub(crate) fn open(_: &Arc<Bundle>, _: &EngineOptions, _: &Loading) -> Result<Box<dyn Model>> {
    Err(Error::Device(without("GPU support", "gpu", "choose the CPU")))
}

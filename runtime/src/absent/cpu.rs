//! For `cpu`.

use std::convert::Infallible;
use std::sync::Arc;

use super::without;
use crate::bundle::Bundle;
use crate::engine::EngineOptions;
use crate::error::{Error, Result};
use crate::loading::Loading;
use crate::model::Model;

pub(crate) fn open(_: &Arc<Bundle>, _: &EngineOptions, _: &Loading) -> Result<Box<dyn Model>> {
    Err(missing("choose a GPU"))
}

pub(crate) fn open_reference(_: &Arc<Bundle>) -> Result<Box<dyn Model>> {
    Err(missing("choose a GPU"))
}

/// What helps a GPU.
pub(crate) struct Experts(Infallible);

impl Experts {
    pub(crate) fn new() -> Result<Experts> {
        Err(missing("hybrid placement needs it, choose another one"))
    }

    pub(crate) fn compute(&self, _: &Bundle, _: usize, _: &[u32], _: &[f32]) -> Result<Vec<Vec<f32>>> {
        match self.0 {}
    }
}

fn missing(instead: &str) -> Error {
    Error::Device(without("CPU support", "cpu", instead))
}

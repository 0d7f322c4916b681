//! Hotset runs Mixture-of-Experts language models that are larger than the memory of the device they run on.

pub mod bundle;
mod candidates;
pub mod codec;
pub mod cpu;
mod error;
pub mod model;
pub mod plan;

pub use error::{Category, Error, Result};

#[cfg(target_endian = "big")]
compile_error!("bundles are little-endian and are read in place");

//! Hotset runs Mixture-of-Experts language models that are larger than the memory of the device they run on.

pub mod bundle;
mod candidates;
pub mod codec;
pub mod cpu;
mod engine;
mod error;
pub mod gpu;
pub mod model;
pub mod plan;
mod session;
pub mod text;

pub use engine::{Device, Engine, EngineOptions};
pub use error::{Category, Error, Result};
pub use session::{
    CancelToken, Chat, Completion, DEFAULT_CONTEXT, GenerateOptions, MAX_CONTEXT, Overflow, PREFILL_CHUNK, Sampling, Session,
    SessionOptions, Statistics, StopReason, Stream, Token,
};

// Test support is written against the public names.
#[cfg(test)]
extern crate self as hotset;

#[cfg(target_endian = "big")]
compile_error!("bundles are little-endian and are read in place");

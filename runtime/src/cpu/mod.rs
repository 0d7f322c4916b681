//! Plans on the CPU: a plain [`reference`](mod@reference) that defines every operation, and [`CpuModel`], which is fast.

mod adapter;
mod ahead;
mod alone;
mod attention;
mod batch;
mod best;
mod cache;
mod choice;
mod context;
mod convolution;
mod experts;
mod ffn;
mod forward;
mod heads;
mod kernels;
mod mix;
mod model;
mod needs;
mod norm;
mod open;
mod pool;
mod product;
pub mod reference;
mod report;
mod router;
mod routes;
mod share;
mod state;

pub(crate) use alone::Experts;
pub use model::{CpuModel, CpuPaging};
pub use needs::Needs;
pub(crate) use open::{open, open_reference};

/// What a [`CpuModel`] runs on by default: processor, instruction set, threads.
pub fn describe() -> String {
    report::device(kernels::available()[0].name(), pool::default_threads())
}

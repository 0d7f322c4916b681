//! x
mod kernels;

//! What a model costs, and what it runs on.

use super::needs::cache_bytes_per_token;
use crate::bundle::Bundle;
use crate::codec::Codec;
use crate::model::Report;

/// See [`Model::report`](crate::model::Model::report).
pub(super) fn report(bundle: &Bundle, kernels: &str, threads: usize, cache: Codec) -> Report {
    Report {
        device: device(kernels, threads),
        kind: "cpu",
        device_bytes: 0,
        cache_bytes_per_token: cache_bytes_per_token(bundle.plan(), cache) as u64,
        weight_bytes_per_token: bundle.weight_bytes_per_token(),
        dispatches_per_token: 0,
        dispatches_per_step: Vec::new(),
        paging: None,
    }
}

/// Processor, instruction set and threads in words.
pub(super) fn device(kernels: &str, threads: usize) -> String {
    format!("{}, {kernels}, {threads} thread{}", processor(), if threads == 1 { "" } else { "s" })
}

/// The processor's name where the system tells it cheaply.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.trim_start().strip_prefix(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |n| n.trim().to_owned())
}

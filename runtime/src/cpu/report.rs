//! What a model costs, from its plan alone.

use super::cache::Head;
use crate::bundle::Bundle;
use crate::codec::Codec;
use crate::model::Report;
use crate::plan::{Plan, Routed, Step, Work};

/// See [`Model::report`](crate::model::Model::report).
pub(super) fn report(bundle: &Bundle, kernels: &str, threads: usize, cache: Codec) -> Report {
    let plan = bundle.plan();
    let rows = plan.steps.iter().map(|s| match &s.work {
        Work::Attention(a) => {
            let state = &plan.states[a.state as usize];
            let routes = s.routed.as_ref().filter(|_| state.grouped).map_or(1, |r| routes(plan, r));
            routes * state.kv_heads as usize * Head::bytes_per_token(cache, state.head_dim as usize)
        }
        // A convolution keeps as many rows as it has taps, however long the conversation.
        Work::Convolution(_) | Work::Ffn(_) | Work::Identity => 0,
    });
    Report {
        device: device(kernels, threads),
        kind: "cpu",
        device_bytes: 0,
        cache_bytes_per_token: rows.sum::<usize>() as u64,
        weight_bytes_per_token: bundle.weight_bytes_per_token(),
        dispatches_per_token: 0,
        dispatches_per_step: Vec::new(),
        paging: None,
    }
}

/// Experts that one token may use.
fn routes(plan: &Plan, r: &Routed) -> usize {
    r.router.max_routes(plan.pools[r.pool as usize].experts()) as usize
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

/// Bytes that one token of a batch needs while it passes through the plan, roughly: streams, and the widest step.
pub(super) fn working_bytes_per_token(plan: &Plan) -> usize {
    let step = |s: &Step| {
        let width = plan.stream_width(s.from).unwrap_or(0) as usize;
        let routes = s.routed.as_ref().map_or(1, |r| routes(plan, r));
        let inner: usize = match &s.work {
            Work::Attention(a) => 3 * (a.heads * a.head_dim) as usize,
            Work::Convolution(_) => 3 * width,
            Work::Identity => 0,
            Work::Ffn(_) => {
                let pool = s.routed.as_ref().map(|r| &plan.pools[r.pool as usize]);
                pool.map_or(0, |p| p.expert.matrices(plan.width).iter().map(|m| m.1.min(m.2) as usize).sum())
            }
        };
        routes * (width + inner) * 2
    };
    let carried: u32 = plan.streams.iter().map(|s| s.width).chain(plan.memories.iter().copied()).sum();
    4 * (4 * plan.width as usize + carried as usize + plan.steps.iter().map(step).max().unwrap_or(0))
}

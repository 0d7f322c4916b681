//! How fast a model decodes on a device, predicted from bytes and bandwidths.
//!
//! A token reads `D` bytes of dense weights and `E` of experts from memory, at the share η of its bandwidth that kernels reach. The share
//! `1 - h` of `E` that is not in memory comes from the storage first, while nothing is computed:
//!
//! `T = (D + E) / (η · bandwidth) + (1 - h) · E / storage + dispatches · τ`

use hotset::bundle::Cost;
use hotset::cpu::Needs;
use hotset::plan::Plan;
use serde::Serialize;

use crate::devices::Device;

/// Share of the memory's bandwidth that decoding reaches. Measured by `hotset bench`: 0.6 to 0.8 on the CPU, less for small models.
pub(super) const EFFICIENCY: f64 = 0.7;
/// Bytes per second from the system's memory to a GPU's: what PCIe 4 with 16 lanes gives.
const LINK: f64 = 22e9;
/// Dispatches of a step on a GPU of its own, and seconds that each costs.
const DISPATCHES: (f64, f64) = (5.0, 30e-6);

/// A prediction and what it rests on. Bytes and seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Prediction {
    /// What the model may take of the memory that it is computed from.
    pub(crate) memory: u64,
    pub(crate) dense: u64,
    /// Of a full conversation.
    pub(crate) caches: u64,
    pub(crate) working: u64,
    /// All experts, and those that stay in memory.
    pub(crate) experts: u64,
    pub(crate) hot: u64,
    /// Share of experts' bytes that are in memory when they are wanted.
    pub(crate) hit_rate: f64,
    /// Read for each token.
    pub(crate) dense_per_token: u64,
    pub(crate) routed_per_token: u64,
    pub(crate) efficiency: f64,
    pub(crate) seconds_computing: f64,
    pub(crate) seconds_waiting: f64,
    pub(crate) tokens_per_second: f64,
}

/// Share of the reading that happens while something computes. It brings the prediction within a fifth of what the README measured of a model under
/// 1.5, 2 and 3 GiB.
const OVERLAP: f64 = 0.5;

/// What `plan` does on `device` with conversations of `context` tokens. `hits` says what share of wanted bytes is there when that many bytes
/// of experts stay. `None` when it cannot run: see [`smallest`].
pub(crate) fn predict(plan: &Plan, cost: &Cost, device: &Device, context: usize, hits: impl Fn(u64) -> f64) -> Option<Prediction> {
    let memory = device.memory();
    let needs = Needs::new(plan, cost, memory, context);
    let experts = cost.catalogue.bytes();
    let hot = memory.checked_sub(needs.fixed()).filter(|room| *room >= needs.least)?.min(experts);
    let hit_rate = if hot == experts { 1.0 } else { hits(hot) };
    let (dense, routed) = (cost.dense_per_token as f64, cost.routed_per_token as f64);
    let bandwidth = device.vram.map_or(device.bandwidth, |v| v.bandwidth);
    let dispatches = device.vram.map_or(0.0, |_| DISPATCHES.0 * DISPATCHES.1 * plan.steps.len() as f64);
    let seconds_computing = (dense + routed) / (EFFICIENCY * bandwidth) + dispatches;
    let seconds_waiting = match device.vram {
        None => (1.0 - hit_rate) * routed / device.flash,
        Some(_) => {
            // The system's memory holds what the GPU's does not, as far as it goes; the two links work one after the other.
            let near = if hot + device.ram >= experts { 1.0 } else { hits(hot + device.ram) };
            (1.0 - hit_rate) * routed / LINK + (1.0 - near) * routed / device.flash
        }
    };
    Some(Prediction {
        memory,
        dense: needs.dense,
        caches: needs.caches,
        working: needs.working,
        experts,
        hot,
        hit_rate,
        dense_per_token: cost.dense_per_token,
        routed_per_token: cost.routed_per_token,
        efficiency: EFFICIENCY,
        seconds_computing,
        seconds_waiting,
        // Experts that are there compute while others are read, as far as it goes.
        tokens_per_second: 1.0 / (seconds_computing.max(OVERLAP * seconds_waiting) + (1.0 - OVERLAP) * seconds_waiting),
    })
}

/// The least memory that `plan` runs in with conversations of `context` tokens.
pub(crate) fn smallest(plan: &Plan, cost: &Cost, context: usize) -> u64 {
    let needs = Needs::new(plan, cost, 0, context);
    needs.fixed() + needs.least
}

/// The share of wanted bytes that is there when the hottest `room` bytes of experts stay: `uses` are how often each record of each pool is
/// wanted, and pools have records of `bytes`. Not less than for even use, which is the share of all bytes.
pub(crate) fn hits(uses: &[Vec<f64>], bytes: &[u64], room: u64) -> f64 {
    let records = |(uses, bytes): (&Vec<f64>, &u64)| uses.iter().map(|&n| (n, *bytes)).collect::<Vec<_>>();
    let mut records: Vec<(f64, u64)> = uses.iter().zip(bytes).flat_map(records).collect();
    records.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wanted: f64 = records.iter().map(|&(n, b)| n * b as f64).sum();
    let all: u64 = records.iter().map(|r| r.1).sum();
    let mut left = room;
    let there = records.iter().map_while(|&(n, b)| {
        left = left.checked_sub(b)?;
        Some(n * b as f64)
    });
    let there: f64 = there.sum();
    let even = room as f64 / all.max(1) as f64;
    if wanted > 0.0 { (there / wanted).max(even).min(1.0) } else { even.min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_stay() {
        // Ten records of 100 bytes: two wanted 40 times, eight wanted 2.5 times.
        let uses = vec![vec![40.0, 2.5, 2.5, 2.5, 2.5], vec![2.5, 2.5, 40.0, 2.5, 2.5]];
        let at = |room| hits(&uses, &[100, 100], room);
        assert!((at(200) - 0.8).abs() < 1e-12 && (at(250) - 0.8).abs() < 1e-12 && (at(600) - 0.9).abs() < 1e-12);
        assert_eq!((at(0), at(1000), at(5000)), (0.0, 1.0, 1.0));
        assert_eq!(hits(&[vec![0.0; 4]], &[10], 10), 0.25, "where nothing is known");
    }
}

//! What one run keeps on the device: made, or only added up before there is room for it.

use super::cache::Cache;
use super::device::{Device, padded};
use super::latch::Latch;
use super::scratch::{Scratch, masks, routes};
use super::weights::{Weights, padded_rows};
use crate::error::{Error, Result};
use crate::model::{MAX_CANDIDATES, RunOptions};
use crate::plan::Plan;

/// Makes buffers, or something that stands for them.
pub(super) trait Maker {
    /// What it makes.
    type Buffer;

    /// A zeroed buffer for kernels.
    fn storage(&mut self, label: &str, bytes: u64) -> Result<Self::Buffer>;

    /// A buffer for results on their way to the CPU.
    fn readback(&mut self, bytes: u64) -> Result<Self::Buffer>;
}

impl Maker for &Device {
    type Buffer = wgpu::Buffer;

    fn storage(&mut self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        Device::storage(self, label, bytes)
    }

    fn readback(&mut self, bytes: u64) -> Result<wgpu::Buffer> {
        Device::readback(self, bytes)
    }
}

/// Adds up what buffers would take.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
}

impl Maker for Tally {
    type Buffer = ();

    fn storage(&mut self, _: &str, bytes: u64) -> Result<()> {
        self.bytes += padded(bytes);
        Ok(())
    }

    fn readback(&mut self, bytes: u64) -> Result<()> {
        self.storage("", bytes)
    }
}

/// The buffers of a run.
pub(super) struct Memory<B = wgpu::Buffer> {
    pub(super) scratch: Scratch<B>,
    /// One for each state of the plan.
    pub(super) caches: Vec<Cache<B>>,
    /// `[step, k]`: what a single token chose at each step; behind it the [masks].
    pub(super) choices: B,
    /// Results on their way back: first the latch and the choices, then rows of logits or candidates.
    pub(super) results: B,
}

impl<B> Memory<B> {
    /// # Errors
    /// When the context is impossible on this device, or the maker fails.
    pub(super) fn new(
        device: &Device,
        plan: &Plan,
        weights: &Weights,
        options: RunOptions,
        make: &mut impl Maker<Buffer = B>,
    ) -> Result<Memory<B>> {
        if options.context == 0 {
            return Err(Error::Input("a context of 0 holds nothing".into()));
        }
        let rows_of = |name: &str| Ok(u32::try_from(weights.layout(name)?.rows).unwrap_or(u32::MAX));
        let scratch = Scratch::new(device.binding, plan, options, &rows_of, make)?;
        let mut caches: Vec<Option<Cache<B>>> = plan.states.iter().map(|_| None).collect();
        for step in &plan.steps {
            if let Some((state, cache)) = Cache::of_step(device.binding, plan, step, options, scratch.batch, make)? {
                caches[state as usize] = Some(cache);
            }
        }
        let caches = caches.into_iter().map(|c| c.map_or_else(|| Cache::unused(make), Ok)).collect::<Result<Vec<_>>>()?;
        let logits = u64::from(scratch.outputs) * u64::from(padded_rows(plan.vocab)) * 4;
        let choices: u64 = plan.steps.iter().map(|s| u64::from(routes(plan, s, options.routing)) * 4).sum();
        let choices = choices + masks(plan).len() as u64 * 4;
        let ids = plan.steps.iter().map(|s| u64::from(scratch.batch) * u64::from(routes(plan, s, options.routing)) * 4).max().unwrap_or(0);
        let results = Latch::BYTES + choices + logits.max(16 + 8 * MAX_CANDIDATES as u64).max(ids).max(u64::from(plan.width) * 4);
        Ok(Memory { choices: make.storage("choices", choices)?, results: make.readback(results)?, scratch, caches })
    }
}

impl Memory<()> {
    /// Bytes that a run with these options would take.
    ///
    /// # Errors
    /// As [`new`](Memory::new).
    pub(super) fn bytes(device: &Device, plan: &Plan, weights: &Weights, options: RunOptions) -> Result<u64> {
        let mut tally = Tally::default();
        Memory::new(device, plan, weights, options, &mut tally)?;
        Ok(tally.bytes)
    }
}

//! Keys and values of one state of one run.

use super::memory::Maker;
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Attention, Plan};

/// Keys and values of one state.
pub(super) struct Cache<B = wgpu::Buffer> {
    /// `[capacity, KV, h padded to 4]` f32.
    pub(super) keys: B,
    /// The same shape; a stand-in when the state is tied.
    pub(super) values: B,
    /// Rows; position `p` is in row `p % capacity`.
    pub(super) capacity: u32,
    /// Keys a query sees at most.
    pub(super) window: u32,
}

impl<B> Cache<B> {
    /// `binding`: most bytes that the device binds at once.
    pub(super) fn new(
        binding: u64,
        plan: &Plan,
        a: &Attention,
        options: RunOptions,
        batch: u32,
        make: &mut impl Maker<Buffer = B>,
    ) -> Result<Cache<B>> {
        let state = &plan.states[a.state as usize];
        let context = u32::try_from(options.context).map_err(|_| Error::Input(format!("a context of {} is too long", options.context)))?;
        let window = a.window.unwrap_or(u32::MAX).min(if options.slide { context } else { u32::MAX });
        // A ring must keep what the first query of a batch sees while the last key of the batch is written.
        let ring = window.saturating_add(batch - 1);
        let capacity = if options.slide { ring } else { ring.min(context) };
        let row = u64::from(state.kv_heads) * u64::from(state.head_dim.next_multiple_of(4)) * 4;
        let bytes = u64::from(capacity) * row;
        if bytes > binding {
            let longest = (binding / row).saturating_sub(u64::from(batch));
            return Err(Error::Device(format!(
                "a context of {context} takes a cache of {bytes} bytes, more than this GPU binds at once; ask for at most {longest} tokens"
            )));
        }
        let values = if state.tied { 0 } else { bytes };
        Ok(Cache { keys: make.storage("keys", bytes)?, values: make.storage("values", values)?, capacity, window })
    }

    /// For a state that no step uses.
    pub(super) fn unused(make: &mut impl Maker<Buffer = B>) -> Result<Cache<B>> {
        Ok(Cache { keys: make.storage("keys", 0)?, values: make.storage("values", 0)?, capacity: 1, window: 1 })
    }
}

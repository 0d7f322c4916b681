//! Rows that one state of one run keeps: keys and values, or what a convolution looks back at.

use super::memory::Maker;
use super::scratch::routes;
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Plan, Step, Work};

/// The rows of one state.
pub(super) struct Cache<B = wgpu::Buffer> {
    /// `[rows, KV, h padded to 4]` f32.
    pub(super) keys: B,
    /// The same shape; a stand-in when the state is tied.
    pub(super) values: B,
    pub(super) rows: u64,
    /// Entries of a ring: position `p` is in row `p % capacity`. Of a state with groups, entries of an expert's list.
    pub(super) capacity: u32,
    /// Keys a query sees at most.
    pub(super) window: u32,
    /// Which rows belong to which expert, where each has its own.
    pub(super) groups: Option<Groups<B>>,
}

/// Rows of experts: those of the tokens that chose them. See the `append` kernel.
pub(super) struct Groups<B> {
    /// `[experts]` lengths, `[batch, routes, 3]` routes of a batch, `[experts, capacity]` lists, all u32.
    pub(super) index: B,
    /// First entry of the routes in `index`.
    pub(super) entries: u32,
    /// First list.
    pub(super) lists: u32,
    /// Whether an expert's rows are a ring of `capacity`. Otherwise a conversation has a row for each route, in order, so memory does not
    /// grow with the number of experts.
    pub(super) rings: bool,
}

impl<B> Cache<B> {
    /// The rows of the state that `step` has, if it has one. `binding`: most bytes that the device binds at once.
    pub(super) fn of_step(
        binding: u64,
        plan: &Plan,
        step: &Step,
        options: RunOptions,
        batch: u32,
        make: &mut impl Maker<Buffer = B>,
    ) -> Result<Option<(u32, Cache<B>)>> {
        let (number, window, slides) = match &step.work {
            Work::Attention(a) => (a.state, a.window.unwrap_or(u32::MAX), options.slide),
            // It sees no more than its taps, however long a conversation is.
            Work::Convolution(c) => (c.state, c.taps, false),
            Work::Ffn(_) | Work::Identity => return Ok(None),
        };
        let state = &plan.states[number as usize];
        let context = u32::try_from(options.context).map_err(|_| Error::Input(format!("a context of {} is too long", options.context)))?;
        let window = window.min(if slides { context } else { u32::MAX });
        // A ring must keep what the first query of a batch sees while the last key of the batch is written.
        let ring = window.saturating_add(batch - 1);
        let ring = if options.slide { ring } else { ring.min(context) };
        let fits = |bytes: u64| if bytes > binding { Err(too_long(context, batch, bytes, binding)) } else { Ok(bytes) };
        let (mut capacity, mut rows, mut groups) = (ring, u64::from(ring), None);
        if let (true, Some(routed)) = (state.grouped, &step.routed) {
            let (routes, experts) = (routes(plan, step, options.routing), plan.pools[routed.pool as usize].experts());
            let (few, many) = (u64::from(experts) * u64::from(ring), u64::from(context) * u64::from(routes));
            let rings = options.slide || few < many;
            (capacity, rows) = if rings { (ring, few) } else { (context, many) };
            let lists = u64::from(experts) + 3 * u64::from(batch) * u64::from(routes);
            let index = make.storage("rows of experts", fits((lists + u64::from(experts) * u64::from(capacity)) * 4)?)?;
            groups = Some(Groups { index, entries: experts, lists: u32::try_from(lists).unwrap_or(u32::MAX), rings });
        }
        let row = u64::from(state.kv_heads) * u64::from(state.head_dim.next_multiple_of(4)) * 4;
        let bytes = fits(rows.saturating_mul(row))?;
        let (keys, values) = (make.storage("keys", bytes)?, make.storage("values", if state.tied { 0 } else { bytes })?);
        Ok(Some((number, Cache { keys, values, rows, capacity, window, groups })))
    }

    /// For a state that no step uses.
    pub(super) fn unused(make: &mut impl Maker<Buffer = B>) -> Result<Cache<B>> {
        Ok(Cache { keys: make.storage("keys", 0)?, values: make.storage("values", 0)?, rows: 1, capacity: 1, window: 1, groups: None })
    }
}

fn too_long(context: u32, batch: u32, bytes: u64, binding: u64) -> Error {
    let longest = (u128::from(context) * u128::from(binding) / u128::from(bytes)).saturating_sub(batch.into());
    Error::Device(format!(
        "a context of {context} takes a cache of {bytes} bytes, more than this GPU binds at once; ask for at most {longest} tokens"
    ))
}

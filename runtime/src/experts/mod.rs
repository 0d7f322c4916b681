//! The store: which experts are where, under a budget in bytes. Pure logic; nothing here reads a file or knows a device.
//!
//! Memory is a stack of *tiers*: the file holds every record, the host's memory some of them, a GPU's memory fewer. A [`Tier`] keeps the
//! book of one such memory: which record is in which slot, who must stay, who leaves when room is needed. Whoever owns the bytes asks it
//! and moves them; what it decides changes how fast a model runs and never what it computes.
//!
//! * [`Catalogue`]: what there is to keep, and which step of the plan uses it;
//! * [`Layout`]: a budget cut into *regions* of equal slots, shared by pools whose records have one size, or one for each pool;
//! * [`Heat`]: how often each record was used, recently and in the long run;
//! * [`Policy`]: who leaves first;
//! * [`Trace`] and [`replay`](replay()): recorded routing, and what a policy makes of it beside the best that was possible.

mod catalogue;
mod heat;
mod layout;
mod mixture;
mod policy;
mod replay;
#[cfg(test)]
mod tests;
mod tier;
mod trace;

pub use catalogue::{Catalogue, PoolRecords, RecordId};
pub use heat::{Heat, Moment};
pub use layout::{Layout, Region, Sharing};
pub use policy::{Facts, Policy};
pub use replay::{Replay, optimum, replay};
pub use tier::{Counts, Slot, Tier};
pub use trace::{Pass, Trace};

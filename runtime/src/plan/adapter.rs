//! Adapters: low-rank additions to a plan's linear maps, with routers of their own where there are several to choose from.
//!
//! They are an overlay for one session: the plan and its weights stay as they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Name, Router};

/// What is added to a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Additions to linear maps outside the pools, by the name of their matrix.
    pub deltas: BTreeMap<Name, Delta>,
    /// Feed-forward steps whose always-on part becomes a mixture, by index: `Σ weight · part_e(input)` over the router's choice, where `part_e`
    /// is the part with expert `e` of its matrices' deltas added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mixtures: BTreeMap<u32, Router>,
}

/// `y += up · (w ⊙ (down · x))` for a linear map with input `x` `[in]` and output `y` `[out]`; `w` repeats each expert's weight `r` times.
/// Inside a mixture `w` is 1 for the expert in question and 0 for all others; else it comes from the delta's own router, or is 1 everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// How many there are, `E`.
    pub experts: u32,
    /// Rank of each, `r`.
    pub rank: u32,
    /// `[E·r, in]`.
    pub down: Name,
    /// `[out, E·r]`, scale included.
    pub up: Name,
    /// Looks at `x` and weighs the experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Router>,
}

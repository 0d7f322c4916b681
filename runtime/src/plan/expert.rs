//! Experts and pools: typed functions with their own weights.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;

/// Experts of one signature. Ids in routes count `0..experts()`; records count `0..records`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Name in the file: record `i` is the tensor `<name>.<i>`.
    pub name: String,
    /// What each expert computes.
    pub expert: Expert,
    /// How the records' matrices are stored.
    pub codec: Codec,
    /// Records in the file.
    pub records: u32,
    /// Record of each expert id; absent when expert `i` is record `i`. An expert without a record computes nothing: a token that chooses
    /// it skips the step as far as this route is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Vec<Option<u32>>>,
}

impl Pool {
    /// Number of expert ids a router may name.
    pub fn experts(&self) -> u32 {
        self.alias.as_ref().map_or(self.records, |a| u32::try_from(a.len()).unwrap_or(u32::MAX))
    }

    /// Record that holds expert `id`; `None` for an expert that computes nothing.
    pub fn record_of(&self, id: u32) -> Option<u32> {
        self.alias.as_ref().map_or(Some(id), |a| a[id as usize])
    }
}

/// The signature of an expert: what it computes and which matrices its record holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Expert {
    /// `y = down · (act(gate·x) ⊙ up·x)` when gated, else `y = down · act(up·x)`.
    Ffn {
        /// Width of the hidden layer, `F`.
        hidden: u32,
        /// Whether there is a gate matrix.
        gated: bool,
        /// Applied to the gate, or to the only hidden layer.
        activation: Activation,
        /// Whether each product has a bias added.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        bias: bool,
    },
    /// Query and output projections of an attention step whose keys and values are shared: the expert's `heads` query
    /// heads attend, and `o` maps them back. Fills [`Part::Expert`](super::Part::Expert) of `q` and `o`.
    QueryOutput {
        /// Query heads of one expert.
        heads: u32,
        /// Width of a head.
        head_dim: u32,
    },
    /// A whole attention module: projections of queries, keys and values, and back. How several of them work together is the
    /// step's: see [`Part`](super::Part).
    Attention {
        /// Query heads.
        heads: u32,
        /// Key/value heads.
        kv_heads: u32,
        /// Width of a head.
        head_dim: u32,
        /// Whether each product has a bias added.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        bias: bool,
    },
}

/// What a matrix of a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `[F, D]`, activated.
    Gate,
    /// `[F, D]`.
    Up,
    /// `[D, F]`.
    Down,
    /// `[heads·head_dim, D]`.
    Query,
    /// `[kv_heads·head_dim, D]`.
    Key,
    /// `[kv_heads·head_dim, D]`.
    Value,
    /// `[D, heads·head_dim]`.
    Output,
}

impl Expert {
    /// The record's matrices in file order: role, rows, columns. `width` is `D`.
    pub fn matrices(&self, width: u32) -> Vec<(Role, u32, u32)> {
        match *self {
            Expert::Ffn { hidden, gated, .. } => {
                let gate = gated.then_some((Role::Gate, hidden, width));
                gate.into_iter().chain([(Role::Up, hidden, width), (Role::Down, width, hidden)]).collect()
            }
            Expert::QueryOutput { heads, head_dim } => {
                let inner = heads.saturating_mul(head_dim);
                vec![(Role::Query, inner, width), (Role::Output, width, inner)]
            }
            Expert::Attention { heads, kv_heads, head_dim, .. } => {
                let (inner, kv) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
                vec![(Role::Query, inner, width), (Role::Key, kv, width), (Role::Value, kv, width), (Role::Output, width, inner)]
            }
        }
    }

    /// Whether the record also holds, behind the matrices and in their order, a bias for the rows of each.
    pub fn has_biases(&self) -> bool {
        match *self {
            Expert::Ffn { bias, .. } | Expert::Attention { bias, .. } => bias,
            Expert::QueryOutput { .. } => false,
        }
    }
}

/// Elementwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)`, exact error function.
    Gelu,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// Of a gate `g` and an up value `u` together: `g' · σ(alpha · g') · (clamp(u, ±limit) + 1)` with `g' = min(g, limit)`. Needs a gate.
    Clamped {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of both values.
        limit: f32,
    },
}

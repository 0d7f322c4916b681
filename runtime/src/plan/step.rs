//! Steps: what happens at one point of the residual stream, and the caches they own.

use serde::{Deserialize, Serialize};

use super::{Activation, Linear, Name, Norm, Router};

/// `x += scale * (work(norm(x)) + bias)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// For people: statistics and errors name the step by it.
    pub name: String,
    /// Applied to the stream before everything else, the router included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// The routed part. Its result is `Σ weight · expert(input)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<Routed>,
    /// What is computed.
    pub work: Work,
    /// Multiplier of the step's result when it joins the stream.
    pub scale: f32,
    /// Vector `[D]` added once to the step's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Name>,
}

/// A router and the pool it chooses from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routed {
    /// Index into the plan's pools. Several steps may share a pool.
    pub pool: u32,
    /// Chooses and weighs.
    pub router: Router,
}

/// What a step computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Looks at earlier tokens through a [`State`].
    Attention(Attention),
    /// Works on each token alone.
    Ffn(Ffn),
}

/// Feed-forward: routed experts, an always-on part, or the sum of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ffn {
    /// The always-on part: a dense layer, or a shared expert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedFfn>,
}

/// `y = w · down · (act(gate·x) ⊙ up·x)`, without the gate factor when there is no gate matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFfn {
    /// `[S, D]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Linear>,
    /// `[S, D]`.
    pub up: Linear,
    /// `[D, S]`.
    pub down: Linear,
    /// Applied to the gate, or to the only hidden layer.
    pub activation: Activation,
    /// `[1, D]`: the part is multiplied by `σ(weigh · x)`; absent means `w = 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weigh: Option<Linear>,
}

/// Causal attention over the rows of a [`State`].
///
/// `H` query heads share `KV` key/value heads in order: query head `h` reads key head `h / (H / KV)`. When `q` and `o` come
/// from routed experts, every route of a token brings its own `H` query heads against the same keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// How scores become a mix of values.
    pub kind: AttentionKind,
    /// Query heads, `H` (of one expert when queries are routed).
    pub heads: u32,
    /// Width of a head, `h`.
    pub head_dim: u32,
    /// Multiplier of `q · k`.
    pub scale: f32,
    /// Queries `[H·h]`.
    pub q: Part,
    /// Keys `[KV·h]`.
    pub k: Part,
    /// Values `[KV·h]`.
    pub v: Part,
    /// Mixed values `[H·h]` → `[D]`.
    pub o: Part,
    /// Clamp of q, k and v to `±clip`, after their norms and before rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f32>,
    /// Normalisation of queries: over each head when its weight has `h` elements, over all heads when it has `H·h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q_norm: Option<Norm>,
    /// Normalisation of keys: over each head (`h`) or over all heads (`KV·h`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_norm: Option<Norm>,
    /// Index into the plan's rotations; keys are cached after rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<u32>,
    /// A query at position `i` sees keys `j` with `i - window < j ≤ i`; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Index into the plan's states. No other step has it.
    pub state: u32,
}

/// How scores become a mix of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// `softmax(l)` over the visible keys.
    Softmax,
    /// `A_j = σ(l_j) · Π_{m=j+1..i} (1 - σ(l_m))`, the query's own position included; what is left of the stick
    /// is discarded.
    StickBreaking,
}

/// Where a projection of an attention step comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// One matrix for all tokens.
    Shared(Linear),
    /// The matrices of the routed experts.
    Expert,
    /// The step's normalised input itself (`k` and `v` only).
    Input,
}

/// One cache: rows of keys and values, appended one per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Key/value heads, `KV`.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Keys and values are the same rows, stored once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tied: bool,
}

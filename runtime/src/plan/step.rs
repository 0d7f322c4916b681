//! Steps: what happens at one point of the residual stream, and the caches they own.

use serde::{Deserialize, Serialize};

use super::{Activation, Linear, Name, Norm, Router};

/// `to += scale * (work(norm(from)) + bias)`, both the residual stream as a rule. `D` = width of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// For people: statistics and errors name the step by it.
    pub name: String,
    /// The stream that is read: 0 is the residual stream.
    #[serde(default, skip_serializing_if = "is_first")]
    pub from: u32,
    /// Applied to the stream before everything else, a router that looks at the input included.
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
    /// The stream that is written.
    #[serde(default, skip_serializing_if = "is_first")]
    pub to: u32,
    /// How it is written.
    #[serde(default, skip_serializing_if = "Join::is_add")]
    pub join: Join,
}

impl Step {
    /// A step of the residual stream without routing, scale or bias.
    pub fn new(name: String, norm: Option<Norm>, work: Work) -> Step {
        Step { name, from: 0, norm, routed: None, work, scale: 1.0, bias: None, to: 0, join: Join::Add }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_first(stream: &u32) -> bool {
    *stream == 0
}

/// How a step's result reaches its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// It is added.
    #[default]
    Add,
    /// It takes the place of what was there.
    Replace,
}

impl Join {
    fn is_add(&self) -> bool {
        *self == Join::Add
    }
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
#[expect(clippy::large_enum_variant, reason = "there is one for each step of a plan")]
pub enum Work {
    /// Looks at earlier tokens through a [`State`].
    Attention(Attention),
    /// Works on each token alone.
    Ffn(Ffn),
    /// Mixes each element with the same element of the tokens just before.
    Convolution(Convolution),
    /// The normalised input itself.
    Identity,
}

/// Gated short convolution: with `[b; c; x] = input · a` and `u = b ⊙ x`, `y = output · (c ⊙ (Σ_{j<K} kernel[j] ⊙ u_{t−K+1+j} + bias))`.
/// `u` of tokens before the first is zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// `[3D, D]`.
    pub input: Linear,
    /// Vector `[K·D]`: for each tap, oldest token first, a weight for each element.
    pub kernel: Name,
    /// Taps, `K`.
    pub taps: u32,
    /// Vector `[D]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Name>,
    /// `[D, D]`.
    pub output: Linear,
    /// Index into the plan's states: a tied one with one head of width `D`, which keeps `u`.
    pub state: u32,
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
/// `H` query heads share `KV` key/value heads in order: query head `h` reads key head `h / (H / KV)`. What is routed decides what a
/// token's routes do:
/// * `q` and `o` are [`Part::Expert`]: every route brings its own `H` query heads against the same keys and values;
/// * `k` and `v` are so too: every route attends alone, over the rows that its expert wrote for the tokens that chose it. The state has
///   one group for each expert, rows keep the positions of their tokens, and a window counts rows;
/// * `q`, `k` and `v` are [`Part::Sum`]: the routes' projections add up to one attention, which every route's `o` maps back. A token whose
///   experts compute nothing still writes a row, of zeros.
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
    /// Clamp of q, k and v to `±clip`, after their norms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f32>,
    /// Normalisation of queries: over each head when its weight has `h` elements, over all heads when it has `H·h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q_norm: Option<Norm>,
    /// Normalisation of keys: over each head (`h`) or over all heads (`KV·h`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_norm: Option<Norm>,
    /// Keys and values compressed into one row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<Latent>,
    /// Vector `[H]`: a logit for each query head that takes its share of the softmax and brings no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Name>,
    /// Index into the plan's rotations; keys are cached after rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<u32>,
    /// Whether queries and keys are rotated before they are normalised and clipped, and not after. Norms are over each head then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotated_first: bool,
    /// A query at position `i` sees keys `j` with `i - window < j ≤ i`; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Index into the plan's states. No other step has it.
    pub state: u32,
}

impl Attention {
    /// Softmax attention over everything before, its scores divided by the square root of the heads' width. `qkvo`: queries, keys, values,
    /// output.
    pub fn new((heads, head_dim): (u32, u32), qkvo: [Part; 4], state: u32) -> Attention {
        let [q, k, v, o] = qkvo;
        Attention {
            kind: AttentionKind::Softmax,
            heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            q,
            k,
            v,
            o,
            clip: None,
            q_norm: None,
            k_norm: None,
            latent: None,
            sinks: None,
            rotation: None,
            rotated_first: false,
            window: None,
            state,
        }
    }
}

/// Multi-head latent attention: all query heads read the same row `[c; r]` of a tied state with one head of width `L + R`, the attention's
/// `head_dim`. `k` gives that row, `k_norm` has `L` elements and is for `c`, the rotation is for `r`. A head's query is `[n; r]` of width
/// `N + R`, of which `n` is mapped to the latent: `[absorb_h · n; r]`. What it mixes is `c`, and `expand_h` maps that to the head's `V`
/// values, so `o` is `[D, H·V]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Width of the latent, `L`.
    pub rank: u32,
    /// Width of the part of a query that is not rotated, `N`.
    pub query: u32,
    /// Width of a head's values, `V`.
    pub value: u32,
    /// `[H·L', N]`: each head's `[L, N]`, its rows followed by zeros up to a multiple of 16, `L'`.
    pub absorb: Name,
    /// `[H·V', L]`: each head's `[V, L]`, padded likewise.
    pub expand: Name,
}

impl Latent {
    /// Rows that a head's matrix of `rows` rows takes: whole panels, so that no panel belongs to two heads.
    pub fn padded(rows: u32) -> u32 {
        rows.next_multiple_of(16)
    }
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
    /// Two matrices with a norm between them: `up · norm(down · a)` (`q` only).
    LowRank {
        /// `[G, D]`.
        down: Linear,
        /// Over `G` elements.
        norm: Norm,
        /// `[H·h, G]`.
        up: Linear,
    },
    /// The matrices of the routed experts, each for itself.
    Expert,
    /// The sum over the routed experts' matrices (`q`, `k` and `v` together).
    Sum {
        /// Whether each is multiplied by its route's weight.
        weighted: bool,
    },
    /// The step's normalised input itself (`k` and `v` only).
    Input,
}

/// One cache: rows of keys and values, appended one per token. A state with groups has such rows for each expert of its step's pool, and
/// a token appends to those it chose.
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
    /// Whether each expert of the pool has rows of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grouped: bool,
}

impl State {
    /// Rows of keys and others of values.
    pub fn new(kv_heads: u32, head_dim: u32) -> State {
        State { kv_heads, head_dim, tied: false, grouped: false }
    }

    /// Rows that serve as keys and values.
    pub fn tied(kv_heads: u32, head_dim: u32) -> State {
        State { tied: true, ..State::new(kv_heads, head_dim) }
    }

    /// Rows of keys and others of values for each expert of the step's pool.
    pub fn grouped(kv_heads: u32, head_dim: u32) -> State {
        State { grouped: true, ..State::new(kv_heads, head_dim) }
    }
}

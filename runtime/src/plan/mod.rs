//! The plan: what a model computes, as data.
//!
//! A plan is a list of [`Step`]s over the residual stream. It names tensors and pools but knows no
//! device and no checkpoint family; `hotset convert` compiles a family into it and both executors
//! interpret it. The vocabulary is the seven concepts of the design, of which five live here:
//!
//! * [`Expert`]: a typed function with its own weights, the unit that is paged;
//! * [`Pool`]: experts of one signature, shared by as many steps as name it;
//! * [`Router`]: feature → score → select → weigh, giving each token a list of (expert, weight) whose length may
//!   differ from token to token; the value that selects and the value that weighs are separate;
//! * [`Step`]: router + pool + always-on parts + how the result joins the stream;
//! * [`State`]: a cache, keyed by (step instance, group), never by layer or pool.
//!
//! Modules shared over depth are one pool named by many steps, each with its own state. Parts of a layer that work on something other
//! than the residual stream have a [`Stream`] of their own. A norm that belongs to an expert is folded into the expert's matrices by the
//! importer.

mod adapter;
mod expert;
mod rotation;
mod router;
mod step;
mod validate;

pub use adapter::{Adapter, Delta};
pub use expert::{Activation, Expert, Pool, Role};
pub use rotation::{Beyond, Rotation};
pub use router::{Cell, Feature, GroupBy, Groups, Pruned, Router, Rule, Score, Select, Semantics, Transform, Value, Weigh};
pub use step::{Attention, AttentionKind, Convolution, Ffn, Join, Latent, Part, Routed, SharedFfn, State, Step, Work};
pub use validate::{Caps, PlanError, Tensors};

use serde::{Deserialize, Serialize};

/// Version of the vocabulary. A reader refuses plans with a larger one.
pub const VERSION: u32 = 1;

/// Name of a dense tensor in the bundle's tensor table.
pub type Name = String;

/// A whole model as data. Shapes below use `D` = [`Plan::width`], `V` = [`Plan::vocab`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of the vocabulary this plan is written in.
    pub version: u32,
    /// Width of the residual stream, `D`.
    pub width: u32,
    /// Number of token ids, `V`.
    pub vocab: u32,
    /// Positions the model was trained for; `None` where the architecture states no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Token id → residual stream.
    pub embedding: Embedding,
    /// Streams beside the residual stream: steps name them from 1 on, the residual stream is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<Stream>,
    /// Widths of what recurrent routers carry from step to step of one token; each is zero before the token's first step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memories: Vec<u32>,
    /// Rotary position encodings that attention steps refer to by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<Rotation>,
    /// Expert pools that steps refer to by index.
    pub pools: Vec<Pool>,
    /// Caches that attention steps refer to by index. Each belongs to exactly one step.
    pub states: Vec<State>,
    /// What happens to the residual stream, in order.
    pub steps: Vec<Step>,
    /// Residual stream → logits.
    pub head: Head,
    /// What a session adds; never part of a bundle.
    #[serde(skip)]
    pub adapter: Option<Adapter>,
}

impl Plan {
    /// Whether tokens carry learned positions, which end somewhere.
    pub fn has_positions(&self) -> bool {
        let beside = self.streams.iter().filter_map(|s| s.embedding.as_ref());
        std::iter::once(&self.embedding).chain(beside).any(|e| e.positions.is_some())
    }

    /// Width of a stream: of the residual stream for 0, of one beside it for the others. `None` when there is no such stream.
    pub fn stream_width(&self, stream: u32) -> Option<u32> {
        match stream.checked_sub(1) {
            None => Some(self.width),
            Some(i) => self.streams.get(i as usize).map(|s| s.width),
        }
    }
}

/// A stream beside the residual stream. Without an embedding it is zero until a step writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Width, `W`.
    pub width: u32,
    /// Token id → stream, with a table `[V, W]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
}

/// Token embedding: `x = scale * table[token] + positions[position]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// Matrix `[V, D]`.
    pub table: Name,
    /// Multiplier of the looked-up row.
    pub scale: f32,
    /// Matrix `[P, D]` with a row for each position; a conversation is never longer than `P` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<Name>,
}

impl Embedding {
    /// Without positions.
    pub fn new(table: Name, scale: f32) -> Embedding {
        Embedding { table, scale, positions: None }
    }
}

/// Output head: `logits = scale * (weight · norm(x) + bias)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Final normalisation.
    pub norm: Norm,
    /// Matrix `[V, D]`; the embedding table's name when the two are tied.
    pub output: Linear,
    /// Multiplier of the logits.
    pub scale: f32,
}

/// `y = weight · x + bias`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Matrix `[out, in]`.
    pub weight: Name,
    /// Vector `[out]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Name>,
}

/// Normalisation over the last axis, `n` = its length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// `y = x / sqrt(mean(x²) + eps) * weight`.
    Rms {
        /// Vector `[n]`.
        weight: Name,
        /// Added to the mean square.
        eps: f32,
    },
    /// `y = (x - mean) / sqrt(var + eps) * weight + bias`.
    Layer {
        /// Vector `[n]`.
        weight: Name,
        /// Vector `[n]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<Name>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// The gain vector's name.
    pub fn weight(&self) -> &str {
        match self {
            Norm::Rms { weight, .. } | Norm::Layer { weight, .. } => weight,
        }
    }
}

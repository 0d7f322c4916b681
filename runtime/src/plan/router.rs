//! Routers: which experts a token uses and with what weight.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Activation, Linear, Name, Norm};

/// Feature → score → transform → select → weigh. `E` = experts of the pool, `W` = width of the feature.
///
/// Ties in selection go to the lowest expert id; routes are listed in the order of selection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// What the router looks at.
    #[serde(default, skip_serializing_if = "Feature::is_input")]
    pub feature: Feature,
    /// Feature → one logit per expert.
    pub score: Score,
    /// Logits → the logits that the rest works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// Logits → expert ids.
    pub select: Select,
    /// Logits and ids → weights.
    pub weigh: Weigh,
    /// Experts that are not chosen any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Pruned>,
}

impl Router {
    /// Looks at the step's input, leaves the logits as they are and chooses from all experts.
    pub fn new(score: Score, select: Select, weigh: Weigh) -> Router {
        Router { feature: Feature::Input, score, transform: None, select, weigh, pruned: None }
    }

    /// The most experts of a pool of `experts` that a token can choose from: those of the best groups that are not pruned.
    pub fn available(&self, experts: u32) -> u32 {
        let pruned = self.pruned.as_ref().map_or(0, |p| u32::try_from(p.experts.len()).unwrap_or(u32::MAX));
        self.select.available(experts).min(experts.saturating_sub(pruned))
    }

    /// The longest list this router can give one token that chooses from a pool of `experts`.
    pub fn max_routes(&self, experts: u32) -> u32 {
        self.select.rule.max_routes(self.available(experts))
    }
}

/// Experts that a router does not choose any more. Its score network still knows them, so that dropping them is an edit of the plan and no
/// new arithmetic: a model with pruned routers answers the same whether or not the experts' records are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruned {
    /// Ids, ascending.
    pub experts: Vec<u32>,
    /// What the others notice of it.
    pub semantics: Semantics,
}

/// What the remaining experts notice of those that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Semantics {
    /// Nothing: values are computed over all experts, then the choice is among the remaining ones. A token that would not have chosen a
    /// dropped one is computed as before.
    #[default]
    Masked,
    /// The dropped ones' transformed logits are −∞, as if their rows of the router were deleted: what a softmax gave them goes to
    /// the others.
    Deleted,
}

impl Semantics {
    /// Both.
    pub const ALL: [Semantics; 2] = [Semantics::Masked, Semantics::Deleted];
}

impl fmt::Display for Semantics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Semantics::Masked => "masked",
            Semantics::Deleted => "deleted",
        })
    }
}

impl FromStr for Semantics {
    type Err = String;

    fn from_str(s: &str) -> Result<Semantics, String> {
        let found = Semantics::ALL.into_iter().find(|m| m.to_string() == s);
        found.ok_or_else(|| format!("{s:?} is neither masked nor deleted"))
    }
}

/// What a router looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The step's normalised input.
    #[default]
    Input,
    /// A stream as it is before the step: 0 is the residual stream. A stream that nothing writes any more makes choices known ahead.
    Stream(u32),
}

impl Feature {
    fn is_input(&self) -> bool {
        *self == Feature::Input
    }
}

/// The network that gives each expert a logit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Score {
    /// `[E, W]`.
    Linear(Linear),
    /// `output · act(hidden · x)`.
    Mlp {
        /// `[G, W]`.
        hidden: Linear,
        /// Between the two layers.
        activation: Activation,
        /// `[E, G]`.
        output: Linear,
    },
    /// `centroids · (z / max(|z|, 1e-12))` with `z = projection · x`. Importers fold the centroids' own
    /// normalisation and the temperature into `centroids`.
    Cosine {
        /// `[G, W]`.
        projection: Linear,
        /// `[E, G]`.
        centroids: Name,
    },
    /// `output · h`, where the cell makes `h` from the feature and from what it left for the token at an earlier step.
    Recurrent {
        /// How the two come together.
        cell: Cell,
        /// Index into the plan's memories, whose width is `G`; read, then written.
        memory: u32,
        /// `[3G, W]` (reset, update, new), or `[G, W]`.
        input: Linear,
        /// `[3G, G]`, or `[G, G]`.
        hidden: Linear,
        /// `[E, G]`.
        output: Linear,
    },
}

/// A recurrent cell. `i` = `input · x`, `j` = `hidden · h`, biases included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Gated recurrent unit: `r = σ(i_r + j_r)`, `z = σ(i_z + j_z)`, `n = tanh(i_n + r ⊙ j_n)`, `h ← n + z ⊙ (h − n)`.
    Gru,
    /// Elman's: `h ← tanh(i + j)`.
    Tanh,
}

/// What is done to logits before anything is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// `max(logit, 0)`, then normalised over the experts where there is a norm `[E]`.
    Relu {
        /// Over all experts of the pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        norm: Option<Norm>,
    },
}

/// How experts are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The value that is compared.
    pub by: Value,
    /// Vector `[E]` added to the value for the comparison alone: it never becomes part of a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Name>,
    /// Groups of consecutive experts of which only the best are chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
    /// Which ones are taken.
    pub rule: Rule,
}

impl Select {
    /// The `k` largest logits.
    pub fn top_k(k: u32) -> Select {
        Select { by: Value::Logit, bias: None, groups: None, rule: Rule::TopK { k } }
    }

    /// How many of `experts` can be chosen: those of the kept groups.
    pub fn available(&self, experts: u32) -> u32 {
        self.groups.map_or(experts, |g| experts / g.count * g.keep)
    }
}

/// Experts in `count` groups of equal size; experts outside the `keep` best groups are not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// How many there are.
    pub count: u32,
    /// How many are chosen from; ties go to the lowest group.
    pub keep: u32,
    /// What a group is worth.
    pub by: GroupBy,
}

/// What a group of experts is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Its largest value.
    Best,
    /// The sum of its two largest values.
    BestTwo,
}

/// Which experts are taken, given a value for each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// The `k` largest.
    TopK {
        /// Experts per token.
        k: u32,
    },
    /// The fewest of the largest whose values sum to more than `p`, at least one; all when they never do.
    TopP {
        /// Between 0 and 1 for probabilities.
        p: f32,
    },
    /// The largest whose values sum to at most `p`, and at least `least` of them; all when the values are uncertain: when their normalised
    /// Tsallis entropy `(1 − Σ v^q) / (1 − E^(1 − q))` is above `threshold` (for `q` = 1: Shannon's, over `ln E`).
    Certain {
        /// Between 0 and 1 for probabilities.
        p: f32,
        /// Experts that are always taken.
        least: u32,
        /// Index of the entropy, `q`.
        index: f32,
        /// Above it all are taken; 1 and more never happens.
        threshold: f32,
        /// Added to each value before the entropy is taken.
        epsilon: f32,
    },
    /// All that are not zero, in order of value; maybe none.
    NonZero,
    /// Only the one that `rank` others come before.
    Rank {
        /// 0 is the largest.
        rank: u32,
    },
}

impl Rule {
    /// The longest list this rule can give one token in a pool of `experts`.
    pub fn max_routes(&self, experts: u32) -> u32 {
        match *self {
            Rule::TopK { k } => k.min(experts),
            Rule::TopP { .. } | Rule::NonZero | Rule::Certain { .. } => experts,
            Rule::Rank { .. } => 1,
        }
    }
}

/// How chosen experts are weighed: `w = scale * v` or, normalised, `w = scale * v / max(Σ v + epsilon, floor)` over the chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weigh {
    /// The value that becomes the weight.
    pub by: Value,
    /// Whether the weights of a token are divided by their sum.
    pub normalise: bool,
    /// Added to the sum.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epsilon: f32,
    /// The least that is divided by.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub floor: f32,
    /// Multiplier of every weight.
    pub scale: f32,
}

impl Weigh {
    /// The value itself.
    pub fn by(by: Value) -> Weigh {
        Weigh { by, normalise: false, epsilon: 0.0, floor: 0.0, scale: 1.0 }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(x: &f32) -> bool {
    *x == 0.0
}

/// A value derived from the logits, one per expert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Value {
    /// The logit itself.
    Logit,
    /// Softmax over all experts.
    Softmax,
    /// `σ(logit)`.
    Sigmoid,
    /// Softmax over the selected experts only; meaningful in [`Weigh`] alone.
    SoftmaxSelected,
    /// For each selected expert with logit `s`, softmax over itself and those not selected before it whose logit `t` is close:
    /// `(s − t) / max(|t|, s) ≤ margin`. Meaningful in [`Weigh`] alone. (SparseMixer's inference.)
    SoftmaxClose {
        /// How far below the chosen one still counts.
        margin: f32,
    },
}

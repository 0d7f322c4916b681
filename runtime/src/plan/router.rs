//! Routers: which experts a token uses and with what weight.

use serde::{Deserialize, Serialize};

use super::{Activation, Linear, Name};

/// Score → select → weigh, on the step's normalised input. `E` = experts of the pool.
///
/// Ties in selection go to the lowest expert id; routes are listed in the order of selection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Input → one logit per expert.
    pub score: Score,
    /// Logits → expert ids.
    pub select: Select,
    /// Logits and ids → weights.
    pub weigh: Weigh,
}

/// The network that gives each expert a logit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Score {
    /// `[E, D]`.
    Linear(Linear),
    /// `output · act(hidden · x)`.
    Mlp {
        /// `[G, D]`.
        hidden: Linear,
        /// Between the two layers.
        activation: Activation,
        /// `[E, G]`.
        output: Linear,
    },
    /// `centroids · (z / max(|z|, 1e-12))` with `z = projection · x`. Importers fold the centroids' own
    /// normalisation and the temperature into `centroids`.
    Cosine {
        /// `[G, D]`.
        projection: Linear,
        /// `[E, G]`.
        centroids: Name,
    },
}

/// How experts are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The value that is compared.
    pub by: Value,
    /// Which ones are taken.
    pub rule: Rule,
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
}

impl Rule {
    /// The longest list this rule can give one token in a pool of `experts`.
    pub fn max_routes(&self, experts: u32) -> u32 {
        match *self {
            Rule::TopK { k } => k.min(experts),
        }
    }
}

/// How chosen experts are weighed: `w = scale * v` or, normalised, `w = scale * v / Σ v` over the chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weigh {
    /// The value that becomes the weight.
    pub by: Value,
    /// Whether the weights of a token are divided by their sum.
    pub normalise: bool,
    /// Multiplier of every weight.
    pub scale: f32,
}

/// A value derived from the logits, one per expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The logit itself.
    Logit,
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the selected experts only; meaningful in [`Weigh`] alone.
    SoftmaxSelected,
}

//! The shape of a dense model, taken from what it is imported as: what was checked there need not be checked again.

use hotset::plan::{Activation, Norm, Part, Work};

use crate::failure::{Failure, Result};
use crate::import::{self, Import};

/// Sizes and constants of a LLaMA.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Width of the residual stream, `D`.
    pub(crate) width: usize,
    pub(crate) layers: usize,
    /// Query heads, `H`.
    pub(crate) heads: usize,
    /// Key and value heads, `KV`.
    pub(crate) kv_heads: usize,
    /// Width of a head, `h`.
    pub(crate) head_dim: usize,
    /// Neurons of a feed-forward layer, `N`.
    pub(crate) hidden: usize,
    /// Token ids, `V`.
    pub(crate) vocab: usize,
    /// Whether the output matrix is the embedding table.
    pub(crate) tied: bool,
    /// Added under the root of every norm.
    pub(crate) eps: f64,
    /// Radians per position of each pair of a head `[h/2]`.
    pub(crate) frequencies: Vec<f32>,
    /// Multiplier of rotated heads.
    pub(crate) amplitude: f32,
    /// Positions the model was trained for, if known.
    pub(crate) context: Option<usize>,
}

impl Shape {
    /// The shape of an imported LLaMA. Fails for what the published MoE format has no place for.
    pub(crate) fn of(llama: &Import) -> Result<Shape> {
        let plan = &llama.plan;
        let attention = plan.steps.iter().find_map(|s| if let Work::Attention(a) = &s.work { Some(a) } else { None });
        let ffn = plan.steps.iter().find_map(|s| if let Work::Ffn(f) = &s.work { f.shared.as_ref() } else { None });
        let parts = (attention, ffn, &plan.head.norm, ffn.map(|f| llama.dense[&f.up.weight].shape));
        let (Some(attention), Some(ffn), Norm::Rms { eps, .. }, Some(import::Shape::Matrix { rows: hidden, .. })) = parts else {
            return Err(Failure::new("the model has no layers that could be converted"));
        };
        let no_place = |what: &str| Failure::new(format!("config.json: {what} has no place in the format that moefy writes"));
        if matches!(&attention.q, Part::Shared(q) if q.bias.is_some()) {
            return Err(no_place("attention_bias"));
        }
        if ffn.up.bias.is_some() {
            return Err(no_place("mlp_bias"));
        }
        if ffn.activation != Activation::Silu {
            return Err(no_place("a hidden_act other than silu"));
        }
        let rotation = &plan.rotations[0];
        Ok(Shape {
            width: plan.width as usize,
            layers: plan.states.len(),
            heads: attention.heads as usize,
            kv_heads: plan.states[0].kv_heads as usize,
            head_dim: attention.head_dim as usize,
            hidden: hidden as usize,
            vocab: plan.vocab as usize,
            tied: plan.head.output.weight == plan.embedding.table,
            eps: (*eps).into(),
            frequencies: rotation.frequencies.clone(),
            amplitude: rotation.amplitude,
            context: plan.context.map(|n| n as usize),
        })
    }
}

/// The first part of the names of layer `i`.
pub(crate) fn layer(i: usize) -> String {
    format!("model.layers.{i}")
}

//! Qwen1.5-MoE and Qwen2-MoE: a shared expert behind a sigmoid, biased queries, keys and values, some layers dense.

use hotset::plan::Score;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::{Gated, gated_ffn, top_k};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let moe = Sparse::read(&config)?;
    let shared = Gated { hidden: config.size("shared_expert_intermediate_size")?, ..moe.sizes };
    let decoder = Decoder::read(&config, 1e-6)?;
    let windows = windows(&config, decoder.layers)?;
    let decoder = Decoder { qkv_bias: config.flag("qkv_bias", true)?, windows, ..decoder };
    decoder.build(config, b, |b, layer, step, prefix| {
        let prefix = format!("{prefix}.mlp");
        if !moe.is_sparse(layer) {
            return Ok((None, Some(gated_ffn(b, step, &prefix, moe.dense(&config)?, false)?)));
        }
        let mut part = gated_ffn(b, &format!("{step}.shared"), &format!("{prefix}.shared_expert"), shared, false)?;
        let (name, tensor) = (format!("{step}.shared.weigh"), format!("{prefix}.shared_expert_gate.weight"));
        part.weigh = Some(b.router(&name, &tensor, 1, shared.width)?);
        Ok((Some(moe.routed(b, step, &prefix)?), Some(part)))
    })
}

/// Which layers look back how far. Only layers of even number below `max_window_layers` slide, unless `layer_types` lists them.
fn windows(config: &Config<'_>, layers: u32) -> Result<Vec<Option<u32>>> {
    let slides = config.flag("use_sliding_window", false)?;
    let window = if slides { config.size_opt("sliding_window")? } else { None };
    config.ignore(&["sliding_window", "max_window_layers"]);
    let listed = match config.get("layer_types") {
        None => {
            let below = config.number("max_window_layers")?.unwrap_or(28.0);
            (0..layers).map(|i| slides && i.is_multiple_of(2) && f64::from(i) < below).collect::<Vec<_>>()
        }
        Some(value) => {
            let sliding = |t: &serde_json::Value| match t.as_str()? {
                "full_attention" => Some(false),
                "sliding_attention" => Some(true),
                _ => None,
            };
            let list: Option<Vec<bool>> = value.as_array().and_then(|a| a.iter().map(sliding).collect());
            list.filter(|l| l.len() == layers as usize).ok_or_else(|| {
                let kinds = "full_attention or sliding_attention for each layer";
                Failure::new(format!("config.json: layer_types is {value}; expected {kinds}, {layers} in all"))
            })?
        }
    };
    if listed.contains(&true) && window.is_none() {
        return Err(Failure::new("config.json: layers slide, but use_sliding_window and sliding_window name no window".to_owned()));
    }
    Ok(listed.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// What Qwen2-MoE and Qwen3-MoE share: which layers are sparse, and how those route.
pub(super) struct Sparse {
    pub(super) sizes: Gated,
    k: u32,
    renormalise: bool,
    /// Layers that are dense whatever their number.
    dense_layers: Vec<u64>,
    /// Every how many layers one is sparse.
    every: u32,
}

impl Sparse {
    pub(super) fn read(config: &Config<'_>) -> Result<Sparse> {
        config.ignore(&["intermediate_size"]); // of dense layers, if there are any
        let sizes = Gated {
            width: config.size("hidden_size")?,
            hidden: config.size("moe_intermediate_size")?,
            experts: config.size_of(&["num_experts", "num_local_experts"])?,
            activation: config.activation("hidden_act")?,
        };
        Ok(Sparse {
            sizes,
            k: config.size("num_experts_per_tok")?,
            renormalise: config.flag("norm_topk_prob", false)?,
            dense_layers: config.indices("mlp_only_layers")?,
            every: config.size_opt("decoder_sparse_step")?.unwrap_or(1),
        })
    }

    pub(super) fn is_sparse(&self, layer: u32) -> bool {
        !self.dense_layers.contains(&u64::from(layer)) && (layer + 1).is_multiple_of(self.every)
    }

    /// Sizes of a dense layer.
    pub(super) fn dense(&self, config: &Config<'_>) -> Result<Gated> {
        Ok(Gated { hidden: config.size("intermediate_size")?, ..self.sizes })
    }

    /// The routed experts of a sparse layer whose tensors begin with `prefix`.
    pub(super) fn routed(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<hotset::plan::Routed> {
        let Gated { experts, width, .. } = self.sizes;
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.gate.weight"), experts, width)?;
        let names = ["gate_proj", "up_proj", "down_proj"];
        let pool = self.sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), names)?;
        Ok(top_k(pool, Score::Linear(score), self.k, self.renormalise))
    }
}

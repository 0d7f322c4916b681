//! Granite-MoE, and Granite-MoE with a shared feed-forward part: four multipliers, fused experts, softmax over the chosen.

use hotset::plan::Score;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::{Gated, fused_ffn, top_k};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("intermediate_size")?,
        experts: config.size("num_local_experts")?,
        activation: config.activation("hidden_act")?,
    };
    let k = config.size("num_experts_per_tok")?;
    // Zero means that there is no shared part.
    let shared = match config.number("shared_intermediate_size")? {
        None | Some(0.0) => None,
        Some(_) => Some(Gated { hidden: config.size("shared_intermediate_size")?, ..sizes }),
    };
    let bias = config.flag("attention_bias", false)?;
    let logits = config.number_or("logits_scaling", 1.0)?;
    if logits == 0.0 {
        return Err(Failure::new("config.json: logits_scaling is 0, by which logits would be divided".to_owned()));
    }
    let decoder = Decoder {
        qkv_bias: bias,
        output_bias: bias,
        attention_scale: config.number_or("attention_multiplier", 1.0)?,
        embedding_scale: config.number_or("embedding_multiplier", 1.0)?,
        residual_scale: config.number_or("residual_multiplier", 1.0)?,
        logit_scale: 1.0 / logits,
        ..Decoder::read(&config, 1e-6)?
    };
    decoder.build(config, b, |b, _, step, layer| {
        let prefix = format!("{layer}.block_sparse_moe");
        // transformers 5 can save the same tensors under shorter names.
        let named = |long: &str, short: &str| {
            let long = format!("{prefix}.{long}");
            if b.has(&long) { long } else { format!("{prefix}.{short}") }
        };
        let router = named("router.layer.weight", "router.weight");
        let gate_up = named("input_linear.weight", "experts.gate_up_proj");
        let down = named("output_linear.weight", "experts.down_proj");
        let score = Score::Linear(b.router(&format!("{step}.router"), &router, sizes.experts, sizes.width)?);
        let pool = sizes.fused_pool(b, &format!("{step}.experts"), &gate_up, &down)?;
        let shared = match shared {
            None => None,
            Some(s) => {
                let (gate_up, down) =
                    (format!("{layer}.shared_mlp.input_linear.weight"), format!("{layer}.shared_mlp.output_linear.weight"));
                Some(fused_ffn(b, &format!("{step}.shared"), &gate_up, &down, s)?)
            }
        };
        Ok((Some(top_k(pool, score, k, true)), shared))
    })
}

//! OLMoE: queries and keys normalised over their whole width, optional clipping, routing weights not renormalised by default.

use hotset::plan::Score;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, QkNorm};
use super::experts::{Gated, top_k};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("intermediate_size")?,
        experts: config.size_of(&["num_experts", "num_local_experts"])?,
        activation: config.activation("hidden_act")?,
    };
    let (k, renormalise) = (config.size("num_experts_per_tok")?, config.flag("norm_topk_prob", false)?);
    let bias = config.flag("attention_bias", false)?;
    let clip = config.number("clip_qkv")?.map(|n| n as f32);
    if let Some(clip) = clip.filter(|c| *c <= 0.0) {
        return Err(Failure::new(format!("config.json: clip_qkv is {clip}; expected a positive number")));
    }
    let decoder = Decoder { qkv_bias: bias, output_bias: bias, qk_norm: QkNorm::Full, clip, ..Decoder::read(&config, 1e-5)? };
    decoder.build(config, b, |b, _, step, prefix| {
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.mlp.gate.weight"), sizes.experts, sizes.width)?;
        let names = ["gate_proj", "up_proj", "down_proj"];
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.mlp.experts"), names)?;
        Ok((Some(top_k(pool, Score::Linear(score), k, renormalise)), None))
    })
}

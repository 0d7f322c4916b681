//! LLaMA: dense feed-forward layers, no experts at all. What `hotset moefy` starts from, and what its result is compared with.

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::{Gated, gated_ffn};
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let (width, hidden) = (config.size("hidden_size")?, config.size("intermediate_size")?);
    let sizes = Gated { width, hidden, experts: 1, activation: config.activation("hidden_act")? };
    let (attention_bias, mlp_bias) = (config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    let decoder = Decoder { qkv_bias: attention_bias, output_bias: attention_bias, ..Decoder::read(&config, 1e-6)? };
    decoder.build(config, b, |b, _, step, prefix| Ok((None, Some(gated_ffn(b, step, &format!("{prefix}.mlp"), sizes, mlp_bias)?))))
}

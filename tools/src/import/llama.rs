//! LLaMA: dense feed-forward layers, no experts at all. What `hotset moefy` starts from, and what its result is compared with.

use hotset::plan::SharedFfn;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    if config.get("num_experts").is_some() {
        return Err(config.unsupported("num_experts", "experts in a model of type \"llama\""));
    }
    let (width, hidden) = (config.size("hidden_size")?, config.size("intermediate_size")?);
    let activation = config.activation("hidden_act")?;
    let (attention_bias, bias) = (config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    let decoder = Decoder { qkv_bias: attention_bias, output_bias: attention_bias, ..Decoder::read(&config, 1e-6)? };
    decoder.build(config, b, |b, _, step, prefix| {
        let mut linear =
            |part: &str, rows, cols| b.linear(&format!("{step}.{part}"), &format!("{prefix}.mlp.{part}_proj"), rows, cols, bias);
        let (gate, up, down) = (linear("gate", hidden, width)?, linear("up", hidden, width)?, linear("down", width, hidden)?);
        Ok((None, Some(SharedFfn { gate: Some(gate), up, down, activation, weigh: None })))
    })
}

//! Qwen3-MoE: queries and keys normalised head by head, heads of a width of their own, some layers dense.

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, QkNorm};
use super::experts::gated_ffn;
use super::qwen2_moe::Sparse;
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let moe = Sparse::read(&config)?;
    let bias = config.flag("attention_bias", false)?;
    let window = if config.flag("use_sliding_window", false)? { config.size_opt("sliding_window")? } else { None };
    config.ignore(&["sliding_window", "max_window_layers"]);
    let decoder = Decoder::read(&config, 1e-6)?.window(window);
    let decoder = Decoder { qkv_bias: bias, output_bias: bias, qk_norm: QkNorm::Head, ..decoder };
    decoder.build(config, b, |b, layer, step, prefix| {
        let prefix = format!("{prefix}.mlp");
        if moe.is_sparse(layer) {
            Ok((Some(moe.routed(b, step, &prefix)?), None))
        } else {
            Ok((None, Some(gated_ffn(b, step, &prefix, moe.dense(&config)?, false)?)))
        }
    })
}

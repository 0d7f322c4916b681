//! Mixtral: sparse feed-forward layers, weights of the chosen experts sum to one.

use hotset::plan::Score;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::{Gated, top_k};
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("intermediate_size")?,
        experts: config.size_of(&["num_local_experts", "num_experts"])?,
        activation: config.activation("hidden_act")?,
    };
    let k = config.size("num_experts_per_tok")?;
    let window = config.size_opt("sliding_window")?;
    config.ignore(&["router_jitter_noise"]); // of training
    let decoder = Decoder { theta: 1e6, ..Decoder::read(&config, 1e-5)?.window(window) };
    decoder.build(config, b, |b, _, step, prefix| {
        // Published checkpoints say `block_sparse_moe`, those with fused experts `mlp`.
        let published = format!("{prefix}.block_sparse_moe");
        let fused = format!("{prefix}.mlp");
        let prefix = if b.has(&format!("{fused}.gate.weight")) { fused } else { published };
        let score = Score::Linear(b.router(&format!("{step}.router"), &format!("{prefix}.gate.weight"), sizes.experts, sizes.width)?);
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), ["w1", "w3", "w2"])?;
        Ok((Some(top_k(pool, score, k, true)), None))
    })
}

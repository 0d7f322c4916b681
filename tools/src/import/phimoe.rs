//! Phi-3.5-MoE: two experts chosen and weighed by SparseMixer, norms that subtract the mean, biases in many places.

use hotset::plan::{Routed, Router, Score, Select, Value, Weigh};

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::Gated;
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("intermediate_size")?,
        experts: config.size_of(&["num_local_experts", "num_experts"])?,
        activation: config.activation("hidden_act")?,
    };
    if config.size_opt("num_experts_per_tok")?.is_some_and(|k| k != 2) {
        return Err(config.unsupported("num_experts_per_tok", "another number than the two that SparseMixer chooses"));
    }
    // The one for the input is of training.
    config.ignore(&["input_jitter_noise"]);
    let jitter = config.number("router_jitter_noise")?.unwrap_or(0.01);
    if jitter < 0.0 {
        return Err(Failure::new(format!("config.json: router_jitter_noise is {jitter}; expected a number that is not negative")));
    }
    let router = |score| {
        let close = Value::SoftmaxClose { margin: (2.0 * jitter) as f32 };
        Router::new(score, Select::top_k(2), Weigh::by(close))
    };
    let bias = config.flag("attention_bias", false)?;
    let decoder = Decoder::read(&config, 1e-5)?.window(config.size_opt("sliding_window")?);
    let decoder =
        Decoder { theta: 1e6, qkv_bias: bias, output_bias: bias, head_bias: config.flag("lm_head_bias", false)?, centred: true, ..decoder };
    decoder.build(config, b, |b, _, step, prefix| {
        // Published checkpoints say `block_sparse_moe.gate`, those with fused experts `mlp.router`.
        let published = format!("{prefix}.block_sparse_moe");
        let (prefix, gate) =
            if b.has(&format!("{published}.gate.weight")) { (published, "gate") } else { (format!("{prefix}.mlp"), "router") };
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.{gate}.weight"), sizes.experts, sizes.width)?;
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), ["w1", "w3", "w2"])?;
        Ok((Some(Routed { pool, router: router(Score::Linear(score)) }), None))
    })
}

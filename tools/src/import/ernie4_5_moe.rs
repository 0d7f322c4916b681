//! ERNIE 4.5: softmax over all experts, chosen with a bias that does not weigh, shared experts, rotation of adjacent pairs.

use hotset::plan::{Routed, Router, Score, Select, Value, Weigh};

use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::{Gated, gated_ffn};
use super::{Import, Shape, Usage};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("moe_intermediate_size")?,
        experts: config.size_of(&["moe_num_experts", "num_experts"])?,
        activation: config.activation("hidden_act")?,
    };
    let dense = Gated { hidden: config.size("intermediate_size")?, ..sizes };
    let shared = Gated { hidden: sizes.hidden.saturating_mul(config.count("moe_num_shared_experts", 2)?), ..sizes };
    let k = config.size_of(&["moe_k", "num_experts_per_tok"])?;
    let weigh = Weigh { normalise: true, floor: config.number_or("moe_norm_min", 1e-12)?, ..Weigh::by(Value::Softmax) };
    let (bias, sparse) = (config.flag("use_bias", false)?, sparse_layers(&config)?);
    // Capacities of training, and layers that only guess further tokens.
    config.ignore(&["moe_capacity", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers"]);
    b.ignore_all("model.mtp_");
    let decoder =
        Decoder { theta: 500_000.0, adjacent: true, qkv_bias: bias, output_bias: bias, head_bias: bias, ..Decoder::read(&config, 1e-5)? };
    let decoder = Decoder { tied: config.flag("tie_word_embeddings", true)?, ..decoder };
    decoder.build(config, b, |b, layer, step, prefix| {
        let prefix = format!("{prefix}.mlp");
        if !sparse(layer) {
            return Ok((None, Some(gated_ffn(b, step, &prefix, dense, bias)?)));
        }
        let name = format!("{step}.router");
        let score = Score::Linear(b.router(&name, &format!("{prefix}.gate.weight"), sizes.experts, sizes.width)?);
        // transformers 5 can save it under a longer name.
        let (published, long) = ("moe_statics.e_score_correction_bias", "gate.moe_statics.e_score_correction_bias");
        let correction = if b.has(&format!("{prefix}.{long}")) { long } else { published };
        let correction = b.tensor(&format!("{prefix}.{correction}"), &[1, sizes.experts])?;
        let shape = Shape::Vector { len: sizes.experts };
        let correction = b.store(format!("{name}.correction"), shape, Usage::Weight, correction.into());
        let select = Select { by: Value::Softmax, bias: Some(correction), ..Select::top_k(k) };
        let names = ["gate_proj", "up_proj", "down_proj"];
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), names)?;
        let always = match shared.hidden {
            0 => None,
            _ => Some(gated_ffn(b, &format!("{step}.shared"), &format!("{prefix}.shared_experts"), shared, bias)?),
        };
        Ok((Some(Routed { pool, router: Router::new(score, select, weigh.clone()) }), always))
    })
}

/// Which layers are sparse.
fn sparse_layers(config: &Config<'_>) -> Result<impl Fn(u32) -> bool> {
    let (first, every) = (config.count("moe_layer_start_index", 1)?, config.size_opt("moe_layer_interval")?.unwrap_or(1));
    let last = match config.number("moe_layer_end_index")? {
        // The last one there is.
        None | Some(-1.0) => f64::from(u32::MAX),
        Some(n) if n >= 0.0 => n,
        Some(n) => return Err(Failure::new(format!("config.json: moe_layer_end_index is {n}; expected a layer's number, or -1"))),
    };
    Ok(move |i: u32| i >= first && f64::from(i) <= last && (i + 1).is_multiple_of(every))
}

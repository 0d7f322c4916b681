//! LFM2-MoE: gated short convolutions in place of most attention, sigmoid routers with a bias for the selection.

use hotset::plan::{Activation, Convolution, Linear, Routed, Router, Score, Select, State, Value, Weigh, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Layer, Names, QkNorm};
use super::experts::{Gated, gated_ffn_of};
use super::{Import, Shape, Source, Usage};
use crate::failure::{Failure, Result};

/// Gate, up and down.
const FFN: [&str; 3] = ["w1", "w3", "w2"];

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let sizes = Gated {
        width: config.size("hidden_size")?,
        hidden: config.size("moe_intermediate_size")?,
        experts: config.size("num_experts")?,
        activation: Activation::Silu,
    };
    let dense = Gated { hidden: config.size("intermediate_size")?, ..sizes };
    let (dense_layers, corrected) = (config.count("num_dense_layers", 2)?, config.flag("use_expert_bias", true)?);
    let k = config.size("num_experts_per_tok")?;
    let weigh = Weigh {
        normalise: config.flag("norm_topk_prob", true)?,
        epsilon: 1e-6,
        scale: config.number_or("routed_scaling_factor", 1.0)?,
        ..Weigh::by(Value::Sigmoid)
    };
    let decoder = decoder(&config)?;
    let Some(kinds) = config.texts("layer_types", decoder.layers)? else {
        return Err(Failure::new("config.json: layer_types is missing".to_owned()));
    };
    if let Some(other) = kinds.iter().find(|k| !["conv", "full_attention"].contains(k)) {
        return Err(config.unsupported("layer_types", &format!("{other:?}")));
    }
    let (taps, bias) = (config.size_opt("conv_L_cache")?.unwrap_or(3), config.flag("conv_bias", false)?);
    let mix = |d: &Decoder, b: &mut Builder<'_>, layer: Layer<'_>| match kinds[layer.number as usize] {
        "conv" => convolution(b, layer, d.width, taps, bias).map(Work::Convolution),
        _ => d.attention(b, layer).map(Work::Attention),
    };
    decoder.build_with(config, b, mix, |b, layer, step, prefix| {
        let prefix = format!("{prefix}.feed_forward");
        if layer < dense_layers {
            return Ok((None, Some(gated_ffn_of(b, step, &prefix, FFN, dense, false)?)));
        }
        let name = format!("{step}.router");
        let score = Score::Linear(b.router(&name, &format!("{prefix}.gate.weight"), sizes.experts, sizes.width)?);
        let mut select = Select { by: Value::Sigmoid, ..Select::top_k(k) };
        if corrected {
            select.bias = Some(b.vector(format!("{name}.correction"), &format!("{prefix}.expert_bias"), sizes.experts)?);
        }
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), FFN)?;
        Ok((Some(Routed { pool, router: Router::new(score, select, weigh.clone()) }), None))
    })
}

fn decoder(config: &Config<'_>) -> Result<Decoder> {
    let tied = match (config.get("tie_embedding"), config.get("tie_word_embeddings")) {
        (Some(_), _) => config.flag("tie_embedding", true)?,
        (None, _) => config.flag("tie_word_embeddings", true)?,
    };
    let names = Names {
        attention_norm: "operator_norm",
        ffn_norm: "ffn_norm",
        final_norm: "model.embedding_norm",
        q_norm: "q_layernorm",
        k_norm: "k_layernorm",
        output: "out_proj",
    };
    let eps = config.number_or("norm_eps", 1e-5)?;
    Ok(Decoder { theta: 1e6, qk_norm: QkNorm::Head, eps, tied, names, ..Decoder::read(config, eps)? })
}

/// The convolution of a layer over `taps` tokens, under `conv`. Its kernel is stored `[D, 1, taps]`.
fn convolution(b: &mut Builder<'_>, layer: Layer<'_>, width: u32, taps: u32, bias: bool) -> Result<Convolution> {
    let (step, prefix) = (layer.step, format!("{}.conv", layer.prefix));
    let mut linear = |name: &str, part: &str, rows: u32| -> Result<Linear> {
        b.linear(&format!("{step}.{name}"), &format!("{prefix}.{part}"), rows, width, bias)
    };
    let (input, output) = (linear("input", "in_proj", width.saturating_mul(3))?, linear("output", "out_proj", width)?);
    let stored = b.tensor(&format!("{prefix}.conv.weight"), &[width, 1, taps])?;
    let tap = |j: u32| (width, Source::Slice(stored.columns(j..j + 1).transposed()));
    let shape = Shape::Vector { len: width.saturating_mul(taps) };
    let kernel = b.store(format!("{step}.kernel"), shape, Usage::Weight, Source::Chain((0..taps).map(tap).collect()));
    let bias = if bias { Some(b.vector(format!("{step}.bias"), &format!("{prefix}.conv.bias"), width)?) } else { None };
    Ok(Convolution { input, kernel, taps, bias, output, state: b.state(State::tied(1, width)) })
}

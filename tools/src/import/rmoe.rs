//! RMoE: routers of all layers share a recurrent cell, which carries what it saw of a token from layer to layer.

use hotset::plan::{Cell, Ffn, Linear, Score, Step, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half, Layer};
use super::experts::{Gated, gated_ffn, top_k};
use super::{Import, Shape, Source, Usage};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let bias = config.flag("attention_bias", false)?;
    let decoder = Decoder { qkv_bias: bias, output_bias: bias, ..Decoder::read(&config, 1e-6)? };
    let sparse = config.size_opt("moe_num_layers")?.unwrap_or(32);
    if sparse != decoder.layers {
        let message = format!("config.json: moe_num_layers is {sparse}; only models whose layers are all sparse are supported");
        return Err(Failure::new(message));
    }
    let dense = config.size("intermediate_size")?;
    let sizes = Gated {
        width: decoder.width,
        hidden: config.size_opt("moe_expert_intermediate_size")?.unwrap_or(dense),
        experts: config.size("num_local_experts")?,
        activation: config.activation("hidden_act")?,
    };
    let k = config.size("num_experts_per_tok")?;
    // Of a shared part where there is none, and of a recurrent router.
    config.ignore(&["moe_weight", "share_weight", "moe_share_expert_intermediate_size", "moe_router_rnn_hidden_size"]);
    let biased = config.flag("add_moe_bias", false)?;
    // With an always-on part either side has a weight; without it there is none.
    let with_shared = config.flag("add_moe_share_expert", false)?;
    let weight = |key: &str| if with_shared { config.number_or(key, 0.5) } else { Ok(1.0) };
    let (routed_weight, shared_weight) = (weight("moe_weight")?, weight("share_weight")?);
    let shared_sizes = Gated { hidden: config.size_opt("moe_share_expert_intermediate_size")?.unwrap_or(dense), ..sizes };
    let gate = Gate::read(&config, &mut b, sizes)?;

    let embedding = decoder.embedding(&config, &mut b)?;
    let rotation = decoder.rotation(&config, &mut b)?;
    for i in 0..decoder.layers {
        let (step, layer) = (Half::Mix.step(i), format!("model.layers.{i}"));
        let attention = decoder.attention(&mut b, Layer { number: i, step: &step, prefix: &layer, rotation })?;
        decoder.push(&mut b, i, Half::Mix, None, Work::Attention(attention))?;

        let step = Half::Ffn.step(i);
        let norm = decoder.layer_norm(&mut b, i, Half::Ffn)?;
        let prefix = format!("{layer}.block_sparse_moe");
        let score = gate.score(&mut b, &format!("{step}.router"), &prefix)?;
        let pool = sizes.pool(&mut b, &format!("{step}.experts"), &format!("{prefix}.experts"), ["w1", "w3", "w2"])?;
        let mut routed = top_k(pool, score, k, true);
        routed.router.weigh.scale = routed_weight;
        let shared = if with_shared {
            let shared = gated_ffn(&mut b, &format!("{step}.shared"), &format!("{layer}.mlp_share"), shared_sizes, false)?;
            b.scale(&shared.down.weight, shared_weight);
            Some(shared)
        } else {
            None
        };
        let bias = if biased {
            let name = b.vector(format!("{step}.bias"), &format!("{prefix}.bias"), sizes.width)?;
            b.scale(&name, routed_weight);
            Some(name)
        } else {
            None
        };
        b.step(Step { routed: Some(routed), bias, ..Step::new(step, Some(norm), Work::Ffn(Ffn { shared })) });
    }
    decoder.finish(&config, b, embedding)
}

/// The score network of all layers.
struct Gate {
    sizes: Gated,
    recurrent: Option<Recurrent>,
}

/// The shared cell: its gates' names, width, memory and the matrix for what it remembers.
struct Recurrent {
    cell: Cell,
    gates: &'static [&'static str],
    width: u32,
    memory: u32,
    hidden: Linear,
}

const CELL: &str = "model.rnn_router";

impl Gate {
    fn read(config: &Config<'_>, b: &mut Builder<'_>, sizes: Gated) -> Result<Gate> {
        let (cell, gates): (Cell, &'static [&'static str]) = match config.text("moe_router_type")?.unwrap_or("gru") {
            "gru" => (Cell::Gru, &["r", "z", "n"]),
            "rnn" => (Cell::Tanh, &["n"]),
            // Any other name stands for an ordinary router.
            _ => return Ok(Gate { sizes, recurrent: None }),
        };
        let width = config.size_opt("moe_router_rnn_hidden_size")?.unwrap_or(256);
        let rows = width * gates.len() as u32;
        let mut weights = Vec::new();
        for gate in gates {
            weights.push((width, b.tensor(&format!("{CELL}.weight_h{gate}"), &[width, width])?.into()));
        }
        let weight = b.matrix("router.hidden.weight", Usage::Router, Source::Stack(weights), rows, width);
        let bias = Some(biases(b, "router.hidden", "h", gates, width)?);
        let recurrent = Recurrent { cell, gates, width, memory: b.memory(width), hidden: Linear { weight, bias } };
        Ok(Gate { sizes, recurrent: Some(recurrent) })
    }

    /// The score network of the layer whose tensors begin with `prefix`.
    fn score(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<Score> {
        let Gated { width, experts, .. } = self.sizes;
        let Some(Recurrent { cell, gates, width: state, memory, hidden }) = &self.recurrent else {
            return Ok(Score::Linear(b.router(name, &format!("{prefix}.gate.weight"), experts, width)?));
        };
        // The layer's own projection comes right before the cell's: one matrix.
        let right = b.tensor(&format!("{prefix}.weight1"), &[*state, width])?;
        let mut products = Vec::new();
        for gate in *gates {
            let left = b.tensor(&format!("{CELL}.weight_i{gate}"), &[*state, *state])?;
            products.push((*state, Source::Product { left, right: right.clone() }));
        }
        let rows = *state * gates.len() as u32;
        let weight = b.matrix(format!("{name}.input.weight"), Usage::Router, Source::Stack(products), rows, width);
        let bias = Some(biases(b, "router.input", "i", gates, *state)?);
        Ok(Score::Recurrent {
            cell: *cell,
            memory: *memory,
            input: Linear { weight, bias },
            hidden: hidden.clone(),
            output: b.router(&format!("{name}.output"), &format!("{prefix}.weight2"), experts, *state)?,
        })
    }
}

/// The cell's biases on one side, `i` or `h`, for all gates.
fn biases(b: &mut Builder<'_>, name: &str, side: &str, gates: &[&str], width: u32) -> Result<hotset::plan::Name> {
    let mut parts = Vec::new();
    for gate in gates {
        parts.push((width, b.tensor(&format!("{CELL}.bias_{side}{gate}"), &[width])?.into()));
    }
    let len = width * gates.len() as u32;
    Ok(b.store(format!("{name}.bias"), Shape::Vector { len }, Usage::Router, Source::Chain(parts)))
}

//! Dynamic MoE: a token takes the fewest experts whose probabilities sum to more than a threshold.

use hotset::plan::{Ffn, Routed, Router, Rule, Score, Select, Value, Weigh, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half, Layer, Names};
use super::experts::{Gated, gated_ffn};
use super::{Import, rope};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let decoder = Decoder::read(&config, 1e-6)?;
    // The published code reads neither the number of key heads nor anything about the rotation.
    let names = Names { attention_norm: "input_norm", ffn_norm: "post_attention_norm", ..decoder.names };
    let decoder = Decoder { kv_heads: decoder.heads, names, ..decoder };
    let rotation = b.rotation(rope::plain(10_000.0, decoder.head_dim)?);
    let sizes = Gated {
        width: decoder.width,
        hidden: config.size("intermediate_size")?,
        experts: config.size("num_experts")?,
        activation: config.activation("hidden_act")?,
    };
    config.ignore(&["experts_topk"]); // of another way to route
    let p = config.number_or("top_p_threshold", 0.4)?;
    if p < 0.0 {
        return Err(Failure::new(format!("config.json: top_p_threshold is {p}; expected a number from 0 on")));
    }
    let every = config.size_opt("expert_frequency")?.unwrap_or(2);
    let embedding = decoder.embedding(&config, &mut b)?;
    for i in 0..decoder.layers {
        let (step, layer) = (Half::Mix.step(i), format!("model.layers.{i}"));
        let attention = decoder.attention(&mut b, Layer { number: i, step: &step, prefix: &layer, rotation })?;
        decoder.push(&mut b, i, Half::Mix, None, Work::Attention(attention))?;
        let (step, prefix) = (Half::Ffn.step(i), format!("{layer}.mlp"));
        let (mut routed, mut shared) = (None, None);
        if i.is_multiple_of(every) {
            let score =
                Score::Linear(b.router(&format!("{step}.router"), &format!("{prefix}.router.weight"), sizes.experts, sizes.width)?);
            let names = ["gate_proj", "up_proj", "down_proj"];
            let pool = sizes.pool(&mut b, &format!("{step}.experts"), &format!("{prefix}.experts"), names)?;
            let select = Select { by: Value::Softmax, bias: None, groups: None, rule: Rule::TopP { p } };
            routed = Some(Routed { pool, router: Router::new(score, select, Weigh::by(Value::Softmax)) });
        } else {
            shared = Some(gated_ffn(&mut b, &format!("{step}.dense"), &format!("{prefix}.mlp"), sizes, false)?);
        }
        decoder.push(&mut b, i, Half::Ffn, routed, Work::Ffn(Ffn { shared }))?;
    }
    decoder.finish(&config, b, embedding)
}

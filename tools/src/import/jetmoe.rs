//! JetMoE: routed attention (each expert brings its own queries and output projection) and routed feed-forward layers.

use hotset::plan::{Attention, Expert, Ffn, Head, Linear, Part, Score, State, Step, Work};

use super::builder::Builder;
use super::config::Config;
use super::experts::{Gated, top_k};
use super::{Import, Usage, rope};
use crate::failure::Result;

/// The norms inside layers are built without an epsilon and have this one; the configuration's is the final norm's.
const LAYER_EPS: f32 = 1e-6;

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    const TABLE: &str = "model.embed_tokens.weight";
    config.require("glu", true)?;
    let (width, vocab) = (config.size("hidden_size")?, config.size("vocab_size")?);
    let sizes = Gated {
        width,
        hidden: config.size_of(&["intermediate_size", "ffn_hidden_size"])?,
        experts: config.size_of(&["num_local_experts", "moe_num_experts"])?,
        activation: config.activation("activation_function")?,
    };
    let k = config.size_of(&["num_experts_per_tok", "moe_top_k"])?;
    // Each expert has one query head for each key head; `num_attention_heads` is that times the experts per token.
    config.ignore(&["num_attention_heads"]);
    let (heads, head_dim) = (config.size("num_key_value_heads")?, config.size("kv_channels")?);
    let biased = config.flag("bias", true)?;
    let inner = heads.saturating_mul(head_dim);
    let both = inner.saturating_mul(2);
    let embedding = b.embedding(TABLE, vocab, width, 1.0)?;
    let rotation = b.rotation(rope::rotation(&config, head_dim, 10_000.0)?);
    for i in 0..config.layers("num_hidden_layers")? {
        let (layer, step) = (format!("model.layers.{i}"), format!("layers.{i}.attention"));
        let prefix = format!("{layer}.self_attention");
        let norm = Some(b.rms(&format!("{step}.norm"), &format!("{layer}.input_layernorm"), width, LAYER_EPS)?);
        let kv = b.tensor(&format!("{prefix}.kv_proj.weight"), &[both, width])?;
        let mut half = |part: &str, rows| {
            let weight = b.matrix(format!("{step}.{part}.weight"), Usage::Weight, kv.rows(rows), inner, width);
            Part::Shared(Linear { weight, bias: None })
        };
        let (keys, values) = (half("k", 0..inner), half("v", inner..both));
        let prefix = format!("{prefix}.experts");
        let query = b.tensor(&format!("{prefix}.input_linear.weight"), &[sizes.experts, inner, width])?;
        let output = b.tensor(&format!("{prefix}.output_linear.weight"), &[sizes.experts, width, inner])?;
        let experts = (0..sizes.experts as usize).map(|e| vec![query.expert(e), output.expert(e)]).collect();
        let pool = b.pool(format!("{step}.experts"), Expert::QueryOutput { heads, head_dim }, experts);
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.router.layer.weight"), sizes.experts, width)?;
        let state = b.state(State::new(heads, head_dim));
        let attention = Attention::new((heads, head_dim), [Part::Expert, keys, values, Part::Expert], state);
        let work = Work::Attention(Attention { rotation: Some(rotation), ..attention });
        let bias = if biased { Some(b.vector(format!("{step}.bias"), &format!("{prefix}.bias"), width)?) } else { None };
        let routed = Some(top_k(pool, Score::Linear(score), k, true));
        b.step(Step { routed, bias, ..Step::new(step, norm, work) });

        let (prefix, step) = (format!("{layer}.mlp"), format!("layers.{i}.ffn"));
        let norm = Some(b.rms(&format!("{step}.norm"), &format!("{layer}.post_attention_layernorm"), width, LAYER_EPS)?);
        let (gate_up, down) = (format!("{prefix}.input_linear.weight"), format!("{prefix}.output_linear.weight"));
        let pool = sizes.fused_pool(&mut b, &format!("{step}.experts"), &gate_up, &down)?;
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.router.layer.weight"), sizes.experts, width)?;
        let bias = if biased { Some(b.vector(format!("{step}.bias"), &format!("{prefix}.bias"), width)?) } else { None };
        let routed = Some(top_k(pool, Score::Linear(score), k, true));
        b.step(Step { routed, bias, ..Step::new(step, norm, Work::Ffn(Ffn { shared: None })) });
    }
    let norm = b.rms("head.norm", "model.norm", width, config.number_or("rms_norm_eps", 1e-6)?)?;
    let output = b.output(&embedding, config.flag("tie_word_embeddings", true)?, TABLE, vocab, width)?;
    b.finish(width, vocab, rope::context(&config)?, embedding, Head { norm, output, scale: 1.0 })
}

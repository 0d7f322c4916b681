//! HunYuan-A13B: a shared expert beside the routed ones; queries and keys normalised after their rotation.

use hotset::plan::Score;

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Names, QkNorm};
use super::experts::{Gated, gated_ffn, top_k};
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let decoder = Decoder::read(&config, 1e-5)?;
    let sizes = Gated {
        width: decoder.width,
        hidden: config.size("intermediate_size")?,
        experts: config.size_of(&["num_experts", "num_local_experts"])?,
        activation: config.activation("hidden_act")?,
    };
    let k = config.sizes("moe_topk", decoder.layers)?.or(config.sizes("num_experts_per_tok", decoder.layers)?);
    let k = k.unwrap_or_else(|| vec![1; decoder.layers as usize]);
    only_published(&config, sizes, decoder.layers)?;
    let bias = config.flag("attention_bias", false)?;
    let names = Names { q_norm: "query_layernorm", k_norm: "key_layernorm", ..decoder.names };
    let decoder = Decoder { qkv_bias: bias, output_bias: bias, qk_norm: QkNorm::RotatedHead, names, ..decoder };
    decoder.build(config, b, |b, layer, step, prefix| {
        let prefix = format!("{prefix}.mlp");
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.gate.wg.weight"), sizes.experts, sizes.width)?;
        let names = ["gate_proj", "up_proj", "down_proj"];
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), names)?;
        let shared = gated_ffn(b, &format!("{step}.shared"), &format!("{prefix}.shared_mlp"), sizes, false)?;
        Ok((Some(top_k(pool, Score::Linear(score), k[layer as usize], true)), Some(shared)))
    })
}

/// Published configurations spell out many options of the code they were trained with; only one value of each is in use.
fn only_published(config: &Config<'_>, sizes: Gated, layers: u32) -> Result<()> {
    for key in ["use_mixed_mlp_moe", "use_qk_norm", "use_rotary_pos_emb", "norm_topk_prob"] {
        config.require(key, true)?;
    }
    for key in ["use_cla", "use_mla", "group_limited_greedy", "mlp_bias", "position_embedding_xdrope", "add_classification_head"] {
        config.require(key, false)?;
    }
    config.one_of("norm_type", &["rms", "hf_rms"])?;
    for (key, only) in [("num_shared_expert", 1), ("moe_intermediate_size", sizes.hidden)] {
        if let Some(other) = config.sizes(key, layers)?.and_then(|all| all.into_iter().find(|n| *n != only)) {
            return Err(config.unsupported(key, &format!("{other} and not {only}")));
        }
    }
    if config.count("moe_layer_num_skipped", 0)? > 0 {
        return Err(config.unsupported("moe_layer_num_skipped", "dense layers"));
    }
    // Of the options above, of training, or of a tokenizer that also knows pictures; head widths follow from the tensors.
    config.ignore(&["attention_head_dim", "cla_share_factor", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"]);
    config.ignore(&["v_head_dim", "n_group", "topk_group", "routed_scaling_factor", "moe_drop_tokens", "xdrope_section"]);
    config.ignore(&["moe_random_routing_dropped_token", "class_num", "pool_type", "pad_id", "dense_list", "org_vocab_size"]);
    config.ignore(&["mask_init_id", "num_media_embeds", "skip_cls_token", "im_start_id", "im_end_id", "im_newline_id"]);
    config.ignore(&["text_start_id", "text_end_id", "video_start_id", "video_end_id"]);
    Ok(())
}

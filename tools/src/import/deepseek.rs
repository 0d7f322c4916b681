//! DeepSeek-V2 and -V3: latent attention, shared experts, and experts in groups of which only the best are chosen from.

use hotset::plan::{GroupBy, Groups, Routed, Router, Score, Select, SharedFfn, Value, Weigh, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Layer};
use super::experts::{Gated, gated_ffn};
use super::mla::Mla;
use super::{Import, rope};
use crate::failure::Result;

/// The norms within attention are built without the configuration's epsilon and have this one.
const LATENT_EPS: f32 = 1e-6;

/// DeepSeek-V2.
pub(super) fn import_v2(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let moe = Sparse::v2(&config)?;
    build(config, b, |b, layer, step, prefix| moe.layer(b, layer, step, prefix))
}

/// DeepSeek-V3.
pub(super) fn import_v3(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    config.one_of("scoring_func", &["sigmoid"])?;
    config.one_of("topk_method", &["noaux_tc"])?;
    let moe = Sparse::v3(&config, 3)?;
    leave_out_next_token_layers(&config, &mut b)?;
    build(config, b, |b, layer, step, prefix| moe.layer(b, layer, step, prefix))
}

/// The model around its feed-forward layers.
fn build(
    config: Config<'_>,
    b: Builder<'_>,
    ffn: impl FnMut(&mut Builder<'_>, u32, &str, &str) -> Result<(Option<Routed>, Option<SharedFfn>)>,
) -> Result<Import> {
    // Both follow from other widths.
    config.ignore(&["qk_head_dim", "head_dim"]);
    let decoder = Decoder::read(&config, 1e-6)?;
    let mla = Mla::read(&config, decoder.width, decoder.heads, LATENT_EPS)?;
    let adjacent = config.flag("rope_interleave", true)?;
    let mla = Mla { adjacent, scale: mla.scale * rope::softmax_scale(&config)?, ..mla };
    let mix = |_: &Decoder, b: &mut Builder<'_>, layer: Layer<'_>| {
        mla.attention(b, layer.step, &format!("{}.self_attn", layer.prefix), layer.rotation).map(Work::Attention)
    };
    Decoder { head_dim: mla.rotated, ..decoder }.build_with(config, b, mix, ffn)
}

/// Leaves out the layers behind the last that do nothing but guess further tokens.
pub(super) fn leave_out_next_token_layers(config: &Config<'_>, b: &mut Builder<'_>) -> Result<()> {
    let (layers, more) = (config.layers("num_hidden_layers")?, config.count("num_nextn_predict_layers", 1)?);
    (layers..layers + more.min(layers)).for_each(|i| b.ignore_all(&format!("model.layers.{i}.")));
    Ok(())
}

/// Feed-forward layers: which of them are sparse, and how those route.
pub(super) struct Sparse {
    sizes: Gated,
    /// Hidden width of dense layers.
    dense: u32,
    /// Hidden width of the shared experts together; 0 without them.
    shared: u32,
    /// Whether dense layers and shared experts have biases.
    bias: bool,
    /// Number of dense layers at the start, and every how many of the others are sparse.
    first: u32,
    every: u32,
    select: Select,
    weigh: Weigh,
    /// Whether a bias for the selection comes with each router.
    corrected: bool,
}

impl Sparse {
    /// Softmax over all experts; a group is worth its best one.
    fn v2(config: &Config<'_>) -> Result<Sparse> {
        config.one_of("scoring_func", &["softmax"])?;
        let k = config.size("num_experts_per_tok")?;
        let groups = groups(config, GroupBy::Best, (1, 1))?;
        let groups = match config.text("topk_method")?.unwrap_or("greedy") {
            "greedy" => None,
            "group_limited_greedy" => groups,
            other => return Err(config.unsupported("topk_method", &format!("{other:?}"))),
        };
        // transformers does not renormalise, whatever this says.
        config.ignore(&["norm_topk_prob"]);
        let scale = config.number_or("routed_scaling_factor", 1.0)?;
        // Softmax keeps the order of logits, that of the groups' best included.
        let select = Select { groups, ..Select::top_k(k) };
        let sparse = Sparse::read(config, 0, select, Weigh { scale, ..Weigh::by(Value::Softmax) })?;
        Ok(Sparse { bias: config.flag("mlp_bias", false)?, ..sparse })
    }

    /// Sigmoids, chosen with a bias that has no part in the weights; a group is worth its best two. `first`: dense layers where the
    /// configuration does not say.
    pub(super) fn v3(config: &Config<'_>, first: u32) -> Result<Sparse> {
        let groups = groups(config, GroupBy::BestTwo, if first == 3 { (8, 4) } else { (1, 1) })?;
        let select = Select { by: Value::Sigmoid, groups, ..Select::top_k(config.size("num_experts_per_tok")?) };
        let weigh = Weigh {
            normalise: config.flag("norm_topk_prob", true)?,
            epsilon: 1e-20,
            scale: config.number_or("routed_scaling_factor", 1.0)?,
            ..Weigh::by(Value::Sigmoid)
        };
        Ok(Sparse { corrected: true, ..Sparse::read(config, first, select, weigh)? })
    }

    fn read(config: &Config<'_>, first: u32, select: Select, weigh: Weigh) -> Result<Sparse> {
        let sizes = Gated {
            width: config.size("hidden_size")?,
            hidden: config.size("moe_intermediate_size")?,
            experts: config.size_of(&["n_routed_experts", "num_experts", "num_local_experts"])?,
            activation: config.activation("hidden_act")?,
        };
        Ok(Sparse {
            sizes,
            dense: config.size("intermediate_size")?,
            shared: sizes.hidden.saturating_mul(config.count("n_shared_experts", 0)?),
            bias: false,
            first: config.count("first_k_dense_replace", first)?,
            every: config.size_opt("moe_layer_freq")?.unwrap_or(1),
            select,
            weigh,
            corrected: false,
        })
    }

    /// The routed and the always-on part of a layer.
    pub(super) fn layer(&self, b: &mut Builder<'_>, layer: u32, step: &str, prefix: &str) -> Result<(Option<Routed>, Option<SharedFfn>)> {
        let (sizes, prefix) = (self.sizes, format!("{prefix}.mlp"));
        if layer < self.first || !layer.is_multiple_of(self.every) {
            return Ok((None, Some(gated_ffn(b, step, &prefix, Gated { hidden: self.dense, ..sizes }, self.bias)?)));
        }
        let (name, gate) = (format!("{step}.router"), format!("{prefix}.gate"));
        let score = Score::Linear(b.router(&name, &format!("{gate}.weight"), sizes.experts, sizes.width)?);
        let mut select = self.select.clone();
        if self.corrected {
            select.bias = Some(b.vector(format!("{name}.correction"), &format!("{gate}.e_score_correction_bias"), sizes.experts)?);
        }
        let names = ["gate_proj", "up_proj", "down_proj"];
        let pool = sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), names)?;
        let shared = match self.shared {
            0 => None,
            hidden => {
                let (name, prefix) = (format!("{step}.shared"), format!("{prefix}.shared_experts"));
                Some(gated_ffn(b, &name, &prefix, Gated { hidden, ..sizes }, self.bias)?)
            }
        };
        Ok((Some(Routed { pool, router: Router::new(score, select, self.weigh.clone()) }), shared))
    }
}

/// Which groups are chosen from; `None` when there is but one. `default`: how many, and of how many, where the configuration does not say.
fn groups(config: &Config<'_>, by: GroupBy, default: (u32, u32)) -> Result<Option<Groups>> {
    let (count, keep) = (config.count("n_group", default.0)?, config.count("topk_group", default.1)?);
    Ok((count > 1).then_some(Groups { count, keep, by }))
}

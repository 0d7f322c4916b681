//! Chain-of-Experts: latent attention, and sparse layers that send a token through their experts several times.

use hotset::plan::{Ffn, GroupBy, Groups, Join, Linear, Routed, Router, Rule, Score, Select, SharedFfn, Step, Stream, Value, Weigh, Work};

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half};
use super::experts::{Gated, gated_ffn};
use super::mla::Mla;
use super::rope;
use crate::failure::{Failure, Result};

/// The published code builds the norms within attention without an epsilon.
const INNER_EPS: f32 = 1e-6;

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let chain = Chain::read(&config)?;
    let decoder = Decoder::read(&config, 1e-6)?;
    let mla = Mla::read(&config, decoder.width, decoder.heads, INNER_EPS)?;
    one_rule_for_amplitude(&config)?;
    let embedding = decoder.embedding(&config, &mut b)?;
    let mla = Mla { scale: mla.scale * rope::softmax_scale(&config)?, ..mla };
    let decoder = Decoder { head_dim: mla.rotated, ..decoder };
    let rotation = decoder.rotation(&config, &mut b)?;
    let beside = b.stream(Stream { width: decoder.width, embedding: None });
    for i in 0..decoder.layers {
        let attention = mla.attention(&mut b, &Half::Mix.step(i), &format!("model.layers.{i}.self_attn"), rotation)?;
        decoder.push(&mut b, i, Half::Mix, None, Work::Attention(attention))?;
        let norm = decoder.layer_norm(&mut b, i, Half::Ffn)?;
        chain.layer(&mut b, &Half::Ffn.step(i), norm, &format!("model.layers.{i}.mlp"), beside)?;
    }
    decoder.finish(&config, b, embedding)
}

/// Where YaRN is given one of its two weights alone, the published code's amplitude is not the usual one.
fn one_rule_for_amplitude(config: &Config<'_>) -> Result<()> {
    let Some(rope) = config.inner("rope_scaling")? else { return Ok(()) };
    let weight = |key: &str| Ok::<_, Failure>(rope.number(key)?.filter(|w| *w != 0.0));
    match (weight("mscale")?, weight("mscale_all_dim")?) {
        (None | Some(1.0), None) | (Some(_), Some(_)) => Ok(()),
        (Some(_), None) => Err(rope.unsupported("mscale", "an amplitude without mscale_all_dim")),
        (None, Some(_)) => Err(rope.unsupported("mscale_all_dim", "a scale without mscale")),
    }
}

/// How a sparse layer iterates.
struct Chain {
    sizes: Gated,
    /// Experts in the shared one's width.
    shared: Option<u32>,
    iterations: u32,
    /// Whether each iteration has a router of its own.
    own_gates: bool,
    /// Whether an iteration adds to what it was given, and the layer to the residual stream; otherwise they take its place.
    inner: Join,
    outer: Join,
    select: Select,
    weigh: Weigh,
}

impl Chain {
    fn read(config: &Config<'_>) -> Result<Chain> {
        if config.count("first_k_dense_replace", 0)? != 0 {
            return Err(config.unsupported("first_k_dense_replace", "dense layers"));
        }
        if config.count("moe_layer_freq", 1)? != 1 {
            return Err(config.unsupported("moe_layer_freq", "dense layers"));
        }
        config.one_of("scoring_func", &["softmax"])?;
        // Of dense layers; of groups where there are none; the scaling of weights that are renormalised; a debugging aid.
        config.ignore(&["intermediate_size", "n_group", "topk_group", "routed_scaling_factor", "save_routing_logits"]);
        let k = config.size("num_experts_per_tok")?;
        let groups = match config.text("topk_method")?.unwrap_or("greedy") {
            "greedy" => None,
            "group_limited_greedy" => Some(Groups { count: config.size("n_group")?, keep: config.size("topk_group")?, by: GroupBy::Best }),
            other => return Err(config.unsupported("topk_method", &format!("{other:?}"))),
        };
        // The scaling factor is for weights that are not renormalised; a single one never is.
        let weigh = if config.flag("norm_topk_prob", false)? && k > 1 {
            Weigh::by(Value::SoftmaxSelected)
        } else {
            Weigh { scale: config.number_or("routed_scaling_factor", 1.0)?, ..Weigh::by(Value::Softmax) }
        };
        let join = |key: &str| -> Result<Join> {
            match config.get(key) {
                Some(_) => Ok(if config.flag(key, true)? { Join::Add } else { Join::Replace }),
                None => Err(Failure::new(format!("config.json: {key} is missing"))),
            }
        };
        Ok(Chain {
            sizes: Gated {
                width: config.size("hidden_size")?,
                hidden: config.size("moe_intermediate_size")?,
                experts: config.size("n_routed_experts")?,
                activation: config.activation("hidden_act")?,
            },
            shared: config.size_opt("n_shared_experts")?,
            iterations: config.layers("inner_iter")?,
            own_gates: config.flag("use_igate", false)?,
            inner: join("inner_residual")?,
            outer: join("outer_residual")?,
            select: Select { by: Value::Logit, bias: None, groups, rule: Rule::TopK { k } },
            weigh,
        })
    }

    /// The steps of a layer: its input goes to the stream `beside`, which the iterations write, and comes back.
    fn layer(&self, b: &mut Builder<'_>, step: &str, norm: hotset::plan::Norm, prefix: &str, beside: u32) -> Result<()> {
        let Gated { width, experts, hidden, .. } = self.sizes;
        b.step(Step { to: beside, join: Join::Replace, ..Step::new(format!("{step}.in"), Some(norm), Work::Identity) });
        let pool = self.sizes.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"), ["gate_proj", "up_proj", "down_proj"])?;
        let shared: Option<SharedFfn> = match self.shared {
            Some(n) => {
                let sizes = Gated { hidden: hidden.saturating_mul(n), ..self.sizes };
                Some(gated_ffn(b, &format!("{step}.shared"), &format!("{prefix}.shared_experts"), sizes, false)?)
            }
            None => None,
        };
        for i in 0..self.iterations {
            let (name, tensor) = if self.own_gates {
                (format!("{step}.router.{i}"), format!("{prefix}.gate.{i}.weight"))
            } else {
                (format!("{step}.router"), format!("{prefix}.gate.weight"))
            };
            let score: Linear = b.router(&name, &tensor, experts, width)?;
            let router = Router::new(Score::Linear(score), self.select.clone(), self.weigh.clone());
            b.step(Step {
                from: beside,
                routed: Some(Routed { pool, router }),
                to: beside,
                join: self.inner,
                ..Step::new(format!("{step}.{i}"), None, Work::Ffn(Ffn { shared: shared.clone() }))
            });
        }
        b.step(Step { from: beside, join: self.outer, ..Step::new(format!("{step}.out"), None, Work::Identity) });
        Ok(())
    }
}

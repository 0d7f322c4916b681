//! BlockFFN, and the MiniCPM it is built on: blocks of a feed-forward layer that a router with ReLU turns on or off, as many as it likes.
//! The baselines of the same code base are here as well: dense layers and mixtures of experts with other routers.

use hotset::plan::{Activation, Expert, Ffn, Linear, Norm, Routed, Router, Rule, Score, Select, SharedFfn, Transform, Value, Weigh, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half, Layer};
use super::mla::Mla;
use super::{Import, Slice};
use crate::failure::{Failure, Result};

/// The published code builds the norms within latent attention without an epsilon.
const INNER_EPS: f32 = 1e-6;

/// The published code writes the keys of all its layers into every file.
const KEYS_OF_OTHERS: [&str; 17] = [
    "block_implementation",
    "expert_size",
    "ffn_gated",
    "intermediate_size",
    "kv_lora_rank",
    "moe_routing_strategy",
    "moe_top_k",
    "moe_top_p",
    "norm_after_router",
    "norm_scale",
    "num_experts",
    "num_shared_experts",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "router_act",
    "v_head_dim",
];

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let decoder = Decoder::read(&config, 1e-6)?;
    config.ignore(&KEYS_OF_OTHERS);
    let (width, bias) = (decoder.width, config.flag("attention_bias", false)?);
    let decoder = Decoder {
        qkv_bias: bias,
        output_bias: bias,
        embedding_scale: config.number_or("scale_emb", 1.0)?,
        residual_scale: config.number_or("scale_depth", 1.0)? / (decoder.layers as f32).sqrt(),
        logit_scale: config.number_or("dim_model_base", 1.0)? / width as f32,
        tied: config.flag("tie_word_embeddings", true)?,
        ..decoder
    };
    let mla = match config.text("attention_type")?.unwrap_or("vanilla") {
        "vanilla" => None,
        "mla" => {
            let mla = Mla::read(&config, width, decoder.heads, INNER_EPS)?;
            config.size("q_lora_rank")?;
            // Values have the width of ordinary heads, whatever `v_head_dim` says.
            Some(Mla { value: decoder.head_dim, adjacent: false, ..mla })
        }
        other => return Err(config.unsupported("attention_type", &format!("{other:?}"))),
    };
    let ffn = FfnKind::read(&config, width)?;

    let embedding = decoder.embedding(&config, &mut b)?;
    let decoder = Decoder { head_dim: mla.map_or(decoder.head_dim, |m| m.rotated), ..decoder };
    let rotation = decoder.rotation(&config, &mut b)?;
    for i in 0..decoder.layers {
        let (step, layer) = (Half::Mix.step(i), format!("model.layers.{i}"));
        let attention = match &mla {
            Some(mla) => mla.attention(&mut b, &step, &format!("{layer}.self_attn"), rotation)?,
            None => decoder.attention(&mut b, Layer { number: i, step: &step, prefix: &layer, rotation })?,
        };
        decoder.push(&mut b, i, Half::Mix, None, Work::Attention(attention))?;
        let (routed, shared) = ffn.parts(&mut b, &Half::Ffn.step(i), &format!("{layer}.mlp"))?;
        decoder.push(&mut b, i, Half::Ffn, routed, Work::Ffn(Ffn { shared }))?;
    }
    decoder.finish(&config, b, embedding)
}

/// What a feed-forward layer is.
enum FfnKind {
    Dense(Dense),
    Blocks(Blocks),
    Mixture(Mixture),
}

impl FfnKind {
    fn read(config: &Config<'_>, width: u32) -> Result<FfnKind> {
        let (activation, gated) = (config.activation("hidden_act")?, config.flag("ffn_gated", true)?);
        let dense = |hidden| Dense { width, hidden, gated, activation };
        match config.text("ffn_type")?.unwrap_or("vanilla") {
            "vanilla" => Ok(FfnKind::Dense(dense(config.size("intermediate_size")?))),
            "block" => Ok(FfnKind::Blocks(Blocks::read(config, width, activation, true)?)),
            "block_linear" => Ok(FfnKind::Blocks(Blocks::read(config, width, activation, false)?)),
            "moe" => {
                let hidden = config.size("intermediate_size")?;
                let (all, shared) = (config.size("num_experts")?, config.count("num_shared_experts", 0)?);
                let Some(experts) = all.checked_sub(shared).filter(|n| *n > 0) else {
                    return Err(Failure::new(format!("config.json: num_experts is {all}; num_shared_experts leaves none to route")));
                };
                let (transform, select, weigh) = strategy(config, shared > 0)?;
                let shared = (shared > 0).then(|| dense(shared.saturating_mul(hidden)));
                Ok(FfnKind::Mixture(Mixture { width, hidden, experts, activation, transform, select, weigh, shared }))
            }
            other => Err(config.unsupported("ffn_type", &format!("{other:?}"))),
        }
    }

    fn parts(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<(Option<Routed>, Option<SharedFfn>)> {
        match self {
            FfnKind::Dense(dense) => Ok((None, Some(dense.part(b, &format!("{step}.dense"), prefix)?))),
            FfnKind::Blocks(blocks) => Ok((Some(blocks.routed(b, step, prefix)?), None)),
            FfnKind::Mixture(mixture) => mixture.parts(b, step, prefix),
        }
    }
}

/// An always-on part, gated or not.
struct Dense {
    width: u32,
    hidden: u32,
    gated: bool,
    activation: Activation,
}

impl Dense {
    fn part(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<SharedFfn> {
        let Dense { width, hidden, gated, activation } = *self;
        let mut linear = |part: &str, rows, cols| -> Result<Linear> {
            b.linear(&format!("{name}.{part}"), &format!("{prefix}.{part}_proj"), rows, cols, false)
        };
        let gate = if gated { Some(linear("gate", hidden, width)?) } else { None };
        Ok(SharedFfn { gate, up: linear("up", hidden, width)?, down: linear("down", width, hidden)?, activation, weigh: None })
    }
}

/// Blocks of `hidden` neurons.
struct Blocks {
    width: u32,
    hidden: u32,
    experts: u32,
    activation: Activation,
    /// Whether the blocks are an axis of their tensors; otherwise all are in one matrix.
    stacked: bool,
    weigh: Weigh,
    /// Epsilon of a norm over all scores, where there is one.
    norm: Option<f32>,
}

impl Blocks {
    fn read(config: &Config<'_>, width: u32, activation: Activation, stacked: bool) -> Result<Blocks> {
        config.one_of("router_act", &["relu"])?;
        // The kernel computes the same; the others drop negative weights and name their tensors differently.
        config.one_of("block_implementation", &["torch", "kernel"])?;
        let scale = config.number_or("norm_scale", 1.0)?;
        let (weigh, norm) = match config.text("norm_after_router")?.unwrap_or("sum") {
            "none" => (Weigh::by(Value::Logit), None),
            "rms" => (Weigh::by(Value::Logit), Some(config.number_or("rms_norm_eps", 1e-6)?)),
            // v / (Σ v · scale + 1e-5)
            "sum" if scale > 0.0 => (Weigh { normalise: true, epsilon: 1e-5 / scale, scale: 1.0 / scale, ..Weigh::by(Value::Logit) }, None),
            "sum" => return Err(Failure::new(format!("config.json: norm_scale is {scale}; expected a positive number"))),
            other => return Err(config.unsupported("norm_after_router", &format!("{other:?}"))),
        };
        let (hidden, experts) = (config.size("expert_size")?, config.size("num_experts")?);
        Ok(Blocks { width, hidden, experts, activation, stacked, weigh, norm })
    }

    fn routed(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<Routed> {
        let Blocks { width, hidden, experts, activation, stacked, norm, .. } = *self;
        let (up, down) = (format!("{prefix}.up_proj"), format!("{prefix}.down_proj"));
        let records = if stacked {
            stack(b, (&up, &down), [experts, hidden, width])?
        } else {
            let all = experts.saturating_mul(hidden);
            let (up, down) = (b.tensor(&up, &[all, width])?, b.tensor(&down, &[width, all])?);
            let block = |e: u32| e * hidden..(e + 1) * hidden;
            (0..experts).map(|e| vec![up.rows(block(e)), down.columns(block(e))]).collect()
        };
        let pool = b.pool(format!("{step}.experts"), Expert::Ffn { hidden, gated: false, activation, bias: false }, records);
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.router_proj.weight"), experts, width)?;
        let norm: Option<Norm> = match norm {
            Some(eps) => Some(b.rms(&format!("{step}.router.norm"), &format!("{prefix}.router_norm"), experts, eps)?),
            None => None,
        };
        let router = Router::new(Score::Linear(score), chosen(Value::Logit, Rule::NonZero), self.weigh.clone());
        Ok(Routed { pool, router: Router { transform: Some(Transform::Relu { norm }), ..router } })
    }
}

/// A mixture of experts.
struct Mixture {
    width: u32,
    hidden: u32,
    experts: u32,
    activation: Activation,
    transform: Option<Transform>,
    select: Select,
    weigh: Weigh,
    shared: Option<Dense>,
}

impl Mixture {
    fn parts(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<(Option<Routed>, Option<SharedFfn>)> {
        let Mixture { width, hidden, experts, activation, .. } = *self;
        let tensors = (format!("{prefix}.experts.up_proj.weight"), format!("{prefix}.experts.down_proj.weight"));
        let records = stack(b, (&tensors.0, &tensors.1), [experts, hidden, width])?;
        let pool = b.pool(format!("{step}.experts"), Expert::Ffn { hidden, gated: false, activation, bias: false }, records);
        let score = b.router(&format!("{step}.router"), &format!("{prefix}.router.weight"), experts, width)?;
        let router = Router::new(Score::Linear(score), self.select.clone(), self.weigh.clone());
        let routed = Routed { pool, router: Router { transform: self.transform.clone(), ..router } };
        let shared = match &self.shared {
            Some(dense) => Some(dense.part(b, &format!("{step}.shared"), &format!("{prefix}.shared_experts"))?),
            None => None,
        };
        Ok((Some(routed), shared))
    }
}

/// How the mixture's router chooses and weighs.
fn strategy(config: &Config<'_>, with_shared: bool) -> Result<(Option<Transform>, Select, Weigh)> {
    const KEY: &str = "moe_routing_strategy";
    let k = || config.size_opt("moe_top_k").map(|k| k.unwrap_or(2));
    match config.text(KEY)?.unwrap_or("topk") {
        "topk" => Ok((None, Select::top_k(k()?), Weigh::by(Value::SoftmaxSelected))),
        "topp" if !with_shared => {
            let p = config.number_or("moe_top_p", 0.3)?;
            if p < 0.0 {
                return Err(Failure::new(format!("config.json: moe_top_p is {p}; expected a number from 0 on")));
            }
            Ok((None, chosen(Value::Softmax, Rule::TopP { p }), Weigh { normalise: true, ..Weigh::by(Value::Softmax) }))
        }
        "topp" => Err(config.unsupported(KEY, "\"topp\" beside shared experts")),
        // The published code fixes the jitter at 0.1.
        "sparse_mixer" => Ok((None, Select::top_k(k()?), Weigh::by(Value::SoftmaxClose { margin: 0.2 }))),
        "relu" => {
            let transform = Some(Transform::Relu { norm: None });
            Ok((transform, chosen(Value::Logit, Rule::NonZero), Weigh::by(Value::Logit)))
        }
        other => Err(config.unsupported(KEY, &format!("{other:?}"))),
    }
}

fn chosen(by: Value, rule: Rule) -> Select {
    Select { by, bias: None, groups: None, rule }
}

/// Records of experts that are the first axis of `up` `[E, F, D]` and `down` `[E, D, F]`.
fn stack(b: &mut Builder<'_>, (up, down): (&str, &str), [experts, hidden, width]: [u32; 3]) -> Result<Vec<Vec<Slice>>> {
    let (up, down) = (b.tensor(up, &[experts, hidden, width])?, b.tensor(down, &[experts, width, hidden])?);
    Ok((0..experts as usize).map(|e| vec![up.expert(e), down.expert(e)]).collect())
}

//! LLaMA-MoE v2: a dense model cut into experts. Their outputs are scaled up to make good for those not taken, some layers stay dense, and
//! attention may be cut too: head groups with keys and values of their own, which only their own tokens write.

use hotset::plan::{Attention, Expert, Ffn, Part, Routed, Score, State, Work};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half, Layer};
use super::experts::{Gated, gated_ffn_of, top_k};
use super::{Import, Source};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    config.one_of("moe_type", &["modulelist"])?;
    // How the published code computes attention, a loss of training, and attention experts where there are none.
    config.ignore(&["attn_implementation", "use_layer_wise_balance", "attn_experts", "top_k_attn", "scale_factor_attn"]);
    let window = config.size_opt("sliding_window")?;
    let decoder = Decoder { theta: 1e6, ..Decoder::read(&config, 1e-5)?.window(window) };
    let experts = Experts {
        sizes: Gated {
            width: decoder.width,
            hidden: config.size("intermediate_size")?,
            experts: config.size("num_local_experts")?,
            activation: config.activation("hidden_act")?,
        },
        k: config.size("num_experts_per_tok")?,
        scale: config.number_or("scale_factor", 1.0)?,
        bias: config.flag("add_rescale_bias", false)?,
    };
    let residual = config.size_opt("intermediate_size_residual")?;
    let groups = if config.flag("use_attn_moe", false)? { Some(HeadGroups::read(&config, &decoder, window, experts.bias)?) } else { None };
    let ends = config.count("num_moe_contract_layers", 0)?;

    let embedding = decoder.embedding(&config, &mut b)?;
    let rotation = decoder.rotation(&config, &mut b)?;
    for i in 0..decoder.layers {
        let (step, layer) = (Half::Mix.step(i), format!("model.layers.{i}"));
        let (routed, attention) = match &groups {
            Some(groups) => {
                let (routed, attention) = groups.attention(&mut b, &step, &format!("{layer}.self_attn"), rotation)?;
                (Some(routed), attention)
            }
            None => (None, decoder.attention(&mut b, Layer { number: i, step: &step, prefix: &layer, rotation })?),
        };
        decoder.push(&mut b, i, Half::Mix, routed, Work::Attention(attention))?;

        let (step, prefix) = (Half::Ffn.step(i), format!("{layer}.block_sparse_moe"));
        let (mut routed, mut shared) = (None, None);
        if i >= ends && i < decoder.layers.saturating_sub(ends) {
            routed = Some(experts.routed(&mut b, &step, &prefix)?);
            if let Some(hidden) = residual {
                let sizes = Gated { hidden, ..experts.sizes };
                let prefix = format!("{layer}.mlp_residual");
                shared = Some(gated_ffn_of(&mut b, &format!("{step}.residual"), &prefix, NAMES, sizes, false)?);
            }
        } else {
            let sizes = Gated { hidden: experts.sizes.hidden.saturating_mul(experts.sizes.experts), ..experts.sizes };
            shared = Some(gated_ffn_of(&mut b, &format!("{step}.dense"), &prefix, NAMES, sizes, false)?);
        }
        decoder.push(&mut b, i, Half::Ffn, routed, Work::Ffn(Ffn { shared }))?;
    }
    decoder.finish(&config, b, embedding)
}

/// Gate, up and down, as Mixtral's experts name them.
const NAMES: [&str; 3] = ["w1", "w3", "w2"];

/// The experts of feed-forward layers.
struct Experts {
    sizes: Gated,
    k: u32,
    scale: f32,
    /// Whether the matrix back has a bias.
    bias: bool,
}

impl Experts {
    fn routed(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<Routed> {
        let Gated { width, hidden, experts, activation } = self.sizes;
        let score = Score::Linear(b.router(&format!("{step}.router"), &format!("{prefix}.gate.weight"), experts, width)?);
        let mut records: Vec<Vec<Source>> = Vec::new();
        for e in 0..experts {
            let expert = format!("{prefix}.experts.{e}");
            let mut record = vec![
                b.tensor(&format!("{expert}.w1.weight"), &[hidden, width])?.into(),
                b.tensor(&format!("{expert}.w3.weight"), &[hidden, width])?.into(),
                b.tensor(&format!("{expert}.w2.weight"), &[width, hidden])?.into(),
            ];
            if self.bias {
                record.extend([Source::Constant(0.0), Source::Constant(0.0)]);
                record.push(b.tensor(&format!("{expert}.w2.bias"), &[width])?.into());
            }
            records.push(record);
        }
        let signature = Expert::Ffn { hidden, gated: true, activation, bias: self.bias };
        let pool = b.pool(format!("{step}.experts"), signature, records);
        let mut routed = top_k(pool, score, self.k, true);
        routed.router.weigh.scale = self.scale;
        Ok(routed)
    }
}

/// Attention cut into experts: some query heads of one key head, with their own copy of it.
struct HeadGroups {
    width: u32,
    experts: u32,
    heads: u32,
    head_dim: u32,
    k: u32,
    scale: f32,
    window: Option<u32>,
    bias: bool,
}

impl HeadGroups {
    fn read(config: &Config<'_>, decoder: &Decoder, window: Option<u32>, bias: bool) -> Result<HeadGroups> {
        let (experts, shared) = (config.size("attn_experts")?, decoder.heads / decoder.kv_heads);
        let pieces = experts / decoder.kv_heads;
        if pieces == 0 || !shared.is_multiple_of(pieces) {
            let message = format!(
                "config.json: attn_experts = {experts} cannot share {} query heads of {} key heads evenly",
                decoder.heads, decoder.kv_heads
            );
            return Err(Failure::new(message));
        }
        Ok(HeadGroups {
            width: decoder.width,
            experts,
            heads: shared / pieces,
            head_dim: decoder.head_dim,
            k: config.size("top_k_attn")?,
            scale: config.number_of("scale_factor_attn")? as f32,
            window,
            bias,
        })
    }

    fn attention(&self, b: &mut Builder<'_>, step: &str, prefix: &str, rotation: u32) -> Result<(Routed, Attention)> {
        let HeadGroups { width, experts, heads, head_dim, bias, .. } = *self;
        let q = heads.saturating_mul(head_dim);
        let score = Score::Linear(b.router(&format!("{step}.router"), &format!("{prefix}.gate.weight"), experts, width)?);
        let mut records: Vec<Vec<Source>> = Vec::new();
        for e in 0..experts {
            let mut matrix = |part: &str, rows, cols| b.tensor(&format!("{prefix}.{part}_proj.{e}.weight"), &[rows, cols]);
            let (q, k, v, o) =
                (matrix("q", q, width)?, matrix("k", head_dim, width)?, matrix("v", head_dim, width)?, matrix("o", width, q)?);
            let mut record: Vec<Source> = [q, k, v, o].map(Source::Slice).into();
            if bias {
                record.extend([const { Source::Constant(0.0) }; 3]);
                record.push(b.tensor(&format!("{prefix}.o_proj.{e}.bias"), &[width])?.into());
            }
            records.push(record);
        }
        let signature = Expert::Attention { heads, kv_heads: 1, head_dim, bias };
        let mut routed = top_k(b.pool(format!("{step}.experts"), signature, records), score, self.k, true);
        routed.router.weigh.scale = self.scale;
        let state = b.state(State::grouped(1, head_dim));
        let attention = Attention::new((heads, head_dim), [const { Part::Expert }; 4], state);
        Ok((routed, Attention { rotation: Some(rotation), window: self.window, ..attention }))
    }
}

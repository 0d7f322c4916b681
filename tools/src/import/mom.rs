//! Mixture-of-Modules: between ordinary layers, a token goes several times through a pool of whole attention modules and a pool of
//! feed-forward modules. Each module has its own norm, which is folded into its matrices; keys and values belong to the place in the
//! sequence of steps, not to the module.

use hotset::plan::{Activation, Attention, Expert, Ffn, Head, Linear, Norm, Part, Routed, SharedFfn, State, Step, Work};

use super::builder::Builder;
use super::config::Config;
use super::mom_router::RouterKind;
use super::{Import, Shape, Slice, Source, Usage};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    const TABLE: &str = "transformer.wte.weight";
    let modules = Modules::read(&config)?;
    let (width, vocab, positions) = (modules.width, config.size("vocab_size")?, config.size("n_positions")?);
    let router = RouterKind::read(&config, width)?;
    // A check and losses of training, heads for other tasks, and options of the original that this model turns off.
    config.ignore(&["bind_ffn_attn", "depthwise_bal_loss", "depth_multiplier", "n_layer", "n_ctx"]);
    config.ignore(&["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]);
    config.ignore(&["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"]);
    let (attentions, ffns) = (config.size("num_attn")?, config.size("num_ffn")?);
    let steps = match config.size_opt("depth_per_chunk")? {
        Some(n) => n.min(MOST),
        None => (f64::from(ffns) * config.number("depth_multiplier")?.unwrap_or(4.0)).clamp(0.0, f64::from(MOST)) as u32,
    };

    let mut embedding = b.embedding(TABLE, vocab, width, 1.0)?;
    let slice = b.tensor("transformer.wpe.weight", &[positions, width])?;
    embedding.positions = Some(b.matrix("positions.weight", Usage::Vocabulary, slice, positions, width));
    for (i, pools) in layers(&config)?.into_iter().enumerate() {
        let (name, prefix) = (|half: &str| format!("layers.{i}.{half}"), format!("transformer.h.{i}"));
        // A single module is named, and works, as in an ordinary layer.
        let pool = |modules: u32| (pools && modules > 1).then_some((modules, &router));
        let attention = modules.attention(&mut b, pool(attentions), &name("attention"), &format!("{prefix}.mot_attn"))?;
        let ffn = modules.ffn(&mut b, pool(ffns), &name("ffn"), &format!("{prefix}.mot_ffn"))?;
        for h in 0..if pools { steps } else { 1 } {
            let name = |half: &str| if pools { format!("{}.{h}", name(half)) } else { name(half) };
            let state = b.state(State::new(modules.heads, modules.head_dim));
            b.step(attention.step(name("attention"), state));
            b.step(ffn.step(name("ffn"), state));
        }
    }
    let norm = b.layer_norm("head.norm", "transformer.ln_f", width, modules.eps)?;
    let output = b.output(&embedding, config.flag("tie_word_embeddings", true)?, TABLE, vocab, width)?;
    b.finish(width, vocab, Some(positions), embedding, Head { norm, output, scale: 1.0 })
}

/// More of anything than a plan may have steps.
const MOST: u32 = 1 << 15;

/// The checkpoint's layers in order: whether each consists of pools.
fn layers(config: &Config<'_>) -> Result<Vec<bool>> {
    let count = |key: &str, default| config.count(key, default).map(|n| n.min(MOST) as usize);
    let (bottom, chunks, top) = (count("num_bottom_layers", 1)?, count("chunks", 4)?, count("num_top_layers", 2)?);
    let chunk: &[bool] = if config.flag("require_anchor_layer", true)? { &[true, false] } else { &[true] };
    Ok([vec![false; bottom], chunk.repeat(chunks), vec![false; top]].concat())
}

/// One half of a layer, without a place in the sequence of steps.
struct Site {
    norm: Norm,
    routed: Option<Routed>,
    work: Work,
}

impl Site {
    /// `state`: of attention; every step has its own.
    fn step(&self, name: String, state: u32) -> Step {
        let mut work = self.work.clone();
        if let Work::Attention(attention) = &mut work {
            attention.state = state;
        }
        Step { routed: self.routed.clone(), ..Step::new(name, Some(self.norm.clone()), work) }
    }
}

/// Sizes of every module.
struct Modules {
    width: u32,
    heads: u32,
    head_dim: u32,
    hidden: u32,
    activation: Activation,
    eps: f32,
    /// Multiplier of `q · k`.
    scale: f32,
    /// Whether queries, keys and values of several modules are weighed before they are added.
    weighted: bool,
}

/// How many modules a pool has and what chooses from them.
type Pool<'a> = Option<(u32, &'a RouterKind)>;

impl Modules {
    fn read(config: &Config<'_>) -> Result<Modules> {
        let (width, heads) = (config.size("n_embd")?, config.size("n_head")?);
        if !width.is_multiple_of(heads) {
            return Err(Failure::new(format!("config.json: n_embd {width} cannot be split into {heads} heads")));
        }
        let head_dim = width / heads;
        Ok(Modules {
            width,
            heads,
            head_dim,
            hidden: config.size_opt("n_inner")?.unwrap_or(width.saturating_mul(4)),
            activation: match config.text("activation_function")? {
                Some(_) => config.activation("activation_function")?,
                None => Activation::GeluTanh,
            },
            eps: config.number_or("layer_norm_epsilon", 1e-5)?,
            scale: if config.flag("scale_attn_weights", true)? { 1.0 / (head_dim as f32).sqrt() } else { 1.0 },
            weighted: config.flag("weighted_qkv", false)?,
        })
    }

    fn attention(&self, b: &mut Builder<'_>, pool: Pool<'_>, name: &str, prefix: &str) -> Result<Site> {
        let Modules { width, heads, head_dim, scale, weighted, .. } = *self;
        let work = |parts| Work::Attention(Attention { scale, ..Attention::new((heads, head_dim), parts, 0) });
        let qkv = [("q", 0), ("k", 1), ("v", 2)].map(|(part, n)| (part, n * width..(n + 1) * width));
        let Some((modules, router)) = pool else {
            let (fused, output) = (conv(b, prefix, "c_attn", "", (width, 3 * width))?, conv(b, prefix, "c_proj", "", (width, width))?);
            let [q, k, v] = qkv.map(|(part, range)| Part::Shared(fused.outputs(range.clone()).stored(b, &format!("{name}.{part}"))));
            let o = Part::Shared(output.stored(b, &format!("{name}.o")));
            let norm = b.layer_norm(&format!("{name}.norm"), &format!("{prefix}.attention_layernorm"), width, self.eps)?;
            return Ok(Site { norm, routed: None, work: work([q, k, v, o]) });
        };
        let mut records = Vec::new();
        for m in 0..modules {
            let norm = ModuleNorm::of(b, &format!("{prefix}.attention_layernorm.{m}"), width)?;
            let fused = conv(b, prefix, "c_attn", &format!(".{m}"), (width, 3 * width))?;
            let output = conv(b, prefix, "c_proj", &format!(".{m}"), (width, width))?;
            let [q, k, v] = qkv.clone().map(|(_, range)| norm.fold(fused.outputs(range)));
            records.push(record([q, k, v, output.sources()]));
        }
        let signature = Expert::Attention { heads, kv_heads: heads, head_dim, bias: true };
        let pool = b.pool(format!("{name}.modules"), signature, records);
        let routed = Some(router.routed(b, pool, modules, name, &format!("{prefix}.router"))?);
        let sum = || Part::Sum { weighted };
        Ok(Site { norm: plain(b, width, self.eps), routed, work: work([sum(), sum(), sum(), Part::Expert]) })
    }

    fn ffn(&self, b: &mut Builder<'_>, pool: Pool<'_>, name: &str, prefix: &str) -> Result<Site> {
        let Modules { width, hidden, activation, .. } = *self;
        let Some((modules, router)) = pool else {
            let up = conv(b, prefix, "c_fc", "", (width, hidden))?.stored(b, &format!("{name}.up"));
            let down = conv(b, prefix, "c_proj", "", (hidden, width))?.stored(b, &format!("{name}.down"));
            let norm = b.layer_norm(&format!("{name}.norm"), &format!("{prefix}.ffn_layernorm"), width, self.eps)?;
            let shared = Some(SharedFfn { gate: None, up, down, activation, weigh: None });
            return Ok(Site { norm, routed: None, work: Work::Ffn(Ffn { shared }) });
        };
        let mut records = Vec::new();
        for m in 0..modules {
            let norm = ModuleNorm::of(b, &format!("{prefix}.ffn_layernorm.{m}"), width)?;
            let up = conv(b, prefix, "c_fc", &format!(".{m}"), (width, hidden))?;
            let down = conv(b, prefix, "c_proj", &format!(".{m}"), (hidden, width))?;
            records.push(record([norm.fold(up), down.sources()]));
        }
        let pool = b.pool(format!("{name}.modules"), Expert::Ffn { hidden, gated: false, activation, bias: true }, records);
        let routed = Some(router.routed(b, pool, modules, name, &format!("{prefix}.router"))?);
        Ok(Site { norm: plain(b, width, self.eps), routed, work: Work::Ffn(Ffn { shared: None }) })
    }
}

/// The part of a norm that all modules of a pool have in common: what it does before gain and shift.
fn plain(b: &mut Builder<'_>, width: u32, eps: f32) -> Norm {
    let weight = b.store("ones".to_owned(), Shape::Vector { len: width }, Usage::Weight, Source::Constant(1.0));
    Norm::Layer { weight, bias: None, eps }
}

/// A linear layer `[rows, cols]` with bias, which the checkpoint stores inputs first.
struct Conv {
    weight: Slice,
    bias: Slice,
    rows: u32,
    cols: u32,
}

fn conv(b: &mut Builder<'_>, prefix: &str, layer: &str, module: &str, (cols, rows): (u32, u32)) -> Result<Conv> {
    let weight = b.tensor(&format!("{prefix}.{layer}{module}.weight"), &[cols, rows])?.transposed();
    let bias = b.tensor(&format!("{prefix}.{layer}{module}.bias"), &[rows])?;
    Ok(Conv { weight, bias, rows, cols })
}

impl Conv {
    /// Some of its outputs.
    fn outputs(&self, range: std::ops::Range<u32>) -> Conv {
        let (weight, bias) = (self.weight.columns(range.clone()), self.bias.columns(range.clone()));
        Conv { weight, bias, rows: range.end - range.start, cols: self.cols }
    }

    fn stored(self, b: &mut Builder<'_>, name: &str) -> Linear {
        let Conv { weight, bias, rows, cols } = self;
        let weight = b.matrix(format!("{name}.weight"), Usage::Weight, weight, rows, cols);
        let bias = b.store(format!("{name}.bias"), Shape::Vector { len: rows }, Usage::Weight, bias.into());
        Linear { weight, bias: Some(bias) }
    }

    /// Matrix and bias as they are.
    fn sources(self) -> (Source, Source) {
        (self.weight.into(), self.bias.into())
    }
}

/// A module's own norm.
struct ModuleNorm {
    gain: Slice,
    shift: Slice,
}

impl ModuleNorm {
    fn of(b: &mut Builder<'_>, prefix: &str, width: u32) -> Result<ModuleNorm> {
        let (gain, shift) = (b.tensor(&format!("{prefix}.weight"), &[width])?, b.tensor(&format!("{prefix}.bias"), &[width])?);
        Ok(ModuleNorm { gain, shift })
    }

    /// Matrix and bias of the layer behind it, such that they expect the norm without gain and shift.
    fn fold(&self, layer: Conv) -> (Source, Source) {
        let (of, plus) = (self.shift.clone(), Some(layer.bias));
        (Source::Columns { of: layer.weight.clone(), gain: self.gain.clone() }, Source::Image { matrix: layer.weight, of, plus })
    }
}

/// All matrices, then all biases.
fn record<const N: usize>(layers: [(Source, Source); N]) -> Vec<Source> {
    let (matrices, biases): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    [matrices, biases].concat()
}

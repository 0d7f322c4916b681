//! What most families share: a decoder of attention and feed-forward steps, and the tensor names transformers gives it. Families differ in
//! a few fields of [`Decoder`] and in what they put in place of the feed-forward layer, some also in place of attention.

use hotset::plan::{Attention, Embedding, Ffn, Head, Norm, Part, Routed, SharedFfn, State, Step, Work};

use super::builder::Builder;
use super::config::Config;
use super::turned::{self, Heads};
use super::{Import, rope};
use crate::failure::{Failure, Result};

const TABLE: &str = "model.embed_tokens.weight";

/// The parts of a decoder outside its feed-forward layers.
pub(super) struct Decoder {
    pub(super) width: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) eps: f32,
    /// Base of the rotation where the configuration names none.
    pub(super) theta: f64,
    /// Whether only a part of each head turns, and how much of it where the configuration does not say.
    pub(super) partial: Option<f64>,
    /// Whether adjacent elements of a head turn together instead of element `i` of either half.
    pub(super) adjacent: bool,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) head_bias: bool,
    pub(super) qk_norm: QkNorm,
    /// Whether a logit without a value belongs to each query head.
    pub(super) sinks: bool,
    pub(super) clip: Option<f32>,
    /// For each layer, how far it looks back; layers beyond the list see everything.
    pub(super) windows: Vec<Option<u32>>,
    pub(super) attention_scale: f32,
    pub(super) embedding_scale: f32,
    pub(super) residual_scale: f32,
    pub(super) logit_scale: f32,
    /// Whether the norms subtract the mean and add a bias.
    pub(super) centred: bool,
    pub(super) tied: bool,
    pub(super) names: Names,
}

/// Normalisation of queries and keys.
pub(super) enum QkNorm {
    None,
    /// Of each head.
    Head,
    /// Of each head, after its rotation.
    RotatedHead,
    /// Over the whole projected width.
    Full,
}

/// What tensors are called in a layer, and the final norm.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) attention_norm: &'static str,
    pub(super) ffn_norm: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) q_norm: &'static str,
    pub(super) k_norm: &'static str,
    pub(super) output: &'static str,
}

/// The two halves of a layer.
#[derive(Clone, Copy)]
pub(super) enum Half {
    /// What looks at other tokens.
    Mix,
    Ffn,
}

impl Half {
    /// The name of its step, and what the step's matrices are named after.
    pub(super) fn step(self, layer: u32) -> String {
        match self {
            Half::Mix => format!("layers.{layer}.attention"),
            Half::Ffn => format!("layers.{layer}.ffn"),
        }
    }
}

/// A layer under construction.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) number: u32,
    /// What the step's matrices are to be named after.
    pub(super) step: &'a str,
    /// What the layer's tensors begin with.
    pub(super) prefix: &'a str,
    pub(super) rotation: u32,
}

impl Decoder {
    /// The common keys of the configuration; every special feature is off.
    pub(super) fn read(config: &Config<'_>, eps: f32) -> Result<Decoder> {
        let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        let kv_heads = config.size_opt("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("config.json: {heads} query heads cannot share num_key_value_heads = {kv_heads} evenly");
            return Err(Failure::new(message));
        }
        let head_dim = match config.size_opt("head_dim")? {
            Some(n) => n,
            None if width.is_multiple_of(heads) => width / heads,
            None => return Err(Failure::new(format!("config.json: hidden_size {width} cannot be split into {heads} heads"))),
        };
        Ok(Decoder {
            width,
            layers: config.layers("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            eps: config.number_or("rms_norm_eps", eps)?,
            theta: 10_000.0,
            partial: None,
            adjacent: false,
            qkv_bias: false,
            output_bias: false,
            head_bias: false,
            qk_norm: QkNorm::None,
            sinks: false,
            clip: None,
            windows: Vec::new(),
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            centred: false,
            tied: config.flag("tie_word_embeddings", false)?,
            names: Names {
                attention_norm: "input_layernorm",
                ffn_norm: "post_attention_layernorm",
                final_norm: "model.norm",
                q_norm: "q_norm",
                k_norm: "k_norm",
                output: "o_proj",
            },
        })
    }

    /// The same window in every layer.
    pub(super) fn window(self, window: Option<u32>) -> Decoder {
        Decoder { windows: vec![window; self.layers as usize], ..self }
    }

    /// Builds the model; `ffn` gives the routed and the always-on part of layer `i`, whose tensors begin with the given prefix and
    /// whose matrices are to be named after the given step.
    pub(super) fn build(
        self,
        config: Config<'_>,
        b: Builder<'_>,
        ffn: impl FnMut(&mut Builder<'_>, u32, &str, &str) -> Result<(Option<Routed>, Option<SharedFfn>)>,
    ) -> Result<Import> {
        self.build_with(config, b, |d, b, layer| d.attention(b, layer).map(Work::Attention), ffn)
    }

    /// Like [`build`](Self::build); `mix` gives the first step of a layer.
    pub(super) fn build_with(
        self,
        config: Config<'_>,
        mut b: Builder<'_>,
        mut mix: impl FnMut(&Decoder, &mut Builder<'_>, Layer<'_>) -> Result<Work>,
        mut ffn: impl FnMut(&mut Builder<'_>, u32, &str, &str) -> Result<(Option<Routed>, Option<SharedFfn>)>,
    ) -> Result<Import> {
        let embedding = self.embedding(&config, &mut b)?;
        let rotation = self.rotation(&config, &mut b)?;
        for i in 0..self.layers {
            let (step, prefix) = (Half::Mix.step(i), format!("model.layers.{i}"));
            let work = mix(&self, &mut b, Layer { number: i, step: &step, prefix: &prefix, rotation })?;
            self.push(&mut b, i, Half::Mix, None, work)?;
            let (routed, shared) = ffn(&mut b, i, &Half::Ffn.step(i), &prefix)?;
            self.push(&mut b, i, Half::Ffn, routed, Work::Ffn(Ffn { shared }))?;
        }
        self.finish(&config, b, embedding)
    }

    /// The embedding, with which a model begins.
    pub(super) fn embedding(&self, config: &Config<'_>, b: &mut Builder<'_>) -> Result<Embedding> {
        b.embedding(TABLE, config.size("vocab_size")?, self.width, self.embedding_scale)
    }

    /// The rotation of all layers.
    pub(super) fn rotation(&self, config: &Config<'_>, b: &mut Builder<'_>) -> Result<u32> {
        let rotation = match self.partial {
            None => rope::rotation(config, self.head_dim, self.theta)?,
            Some(part) => rope::partial_rotation(config, self.head_dim, self.theta, part)?,
        };
        Ok(b.rotation(rotation))
    }

    /// Adds one half of a layer to the plan.
    pub(super) fn push(&self, b: &mut Builder<'_>, layer: u32, half: Half, routed: Option<Routed>, work: Work) -> Result<()> {
        let norm = self.layer_norm(b, layer, half)?;
        b.step(Step { routed, scale: self.residual_scale, ..Step::new(half.step(layer), Some(norm), work) });
        Ok(())
    }

    /// The norm before one half of a layer.
    pub(super) fn layer_norm(&self, b: &mut Builder<'_>, layer: u32, half: Half) -> Result<Norm> {
        let tensor = match half {
            Half::Mix => self.names.attention_norm,
            Half::Ffn => self.names.ffn_norm,
        };
        self.norm(b, &format!("{}.norm", half.step(layer)), &format!("model.layers.{layer}.{tensor}"))
    }

    /// The finished model, after all layers.
    pub(super) fn finish(self, config: &Config<'_>, mut b: Builder<'_>, embedding: Embedding) -> Result<Import> {
        let (width, vocab) = (self.width, config.size("vocab_size")?);
        let norm = self.norm(&mut b, "head.norm", self.names.final_norm)?;
        let mut output = b.output(&embedding, self.tied, TABLE, vocab, width)?;
        if self.head_bias {
            output.bias = Some(b.vector("head.output.bias", "lm_head.bias", vocab)?);
        }
        b.finish(width, vocab, rope::context(config)?, embedding, Head { norm, output, scale: self.logit_scale })
    }

    fn norm(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<Norm> {
        if self.centred { b.layer_norm(name, prefix, self.width, self.eps) } else { b.rms(name, prefix, self.width, self.eps) }
    }

    /// The ordinary attention of a layer, under `self_attn`.
    pub(super) fn attention(&self, b: &mut Builder<'_>, layer: Layer<'_>) -> Result<Attention> {
        let Decoder { width, heads, kv_heads, head_dim, qkv_bias, names, .. } = *self;
        let (q, kv) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
        let (step, prefix) = (layer.step, format!("{}.self_attn", layer.prefix));
        let mut turned = |part: &str, count: u32| {
            let (name, prefix) = (format!("{step}.{part}"), format!("{prefix}.{part}_proj"));
            if self.adjacent {
                turned::linear(b, &name, &prefix, Heads { count, first: 0, turned: head_dim }, width, qkv_bias)
            } else {
                b.linear(&name, &prefix, count.saturating_mul(head_dim), width, qkv_bias)
            }
        };
        let (query, key) = (turned("q", heads)?, turned("k", kv_heads)?);
        let mut straight =
            |part: &str, name: &str, rows, cols, bias| b.linear(&format!("{step}.{part}"), &format!("{prefix}.{name}"), rows, cols, bias);
        let value = straight("v", "v_proj", kv, width, qkv_bias)?;
        let output = straight("o", names.output, width, q, self.output_bias)?;
        let sinks = if self.sinks { Some(b.vector(format!("{step}.sinks"), &format!("{prefix}.sinks"), heads)?) } else { None };
        Ok(Attention {
            scale: self.attention_scale,
            clip: self.clip,
            q_norm: self.qk_norm(b, &format!("{step}.q_norm"), &format!("{prefix}.{}", names.q_norm), q)?,
            k_norm: self.qk_norm(b, &format!("{step}.k_norm"), &format!("{prefix}.{}", names.k_norm), kv)?,
            sinks,
            rotation: Some(layer.rotation),
            rotated_first: matches!(self.qk_norm, QkNorm::RotatedHead),
            window: self.windows.get(layer.number as usize).copied().flatten(),
            ..Attention::new((heads, head_dim), [query, key, value, output].map(Part::Shared), b.state(State::new(kv_heads, head_dim)))
        })
    }

    fn qk_norm(&self, b: &mut Builder<'_>, name: &str, prefix: &str, full: u32) -> Result<Option<Norm>> {
        let len = match self.qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::Head | QkNorm::RotatedHead => self.head_dim,
            QkNorm::Full => full,
        };
        b.rms(name, prefix, len, self.eps).map(Some)
    }
}

//! What most families share: a decoder with grouped-query attention and RMS norms, and the tensor names transformers gives it.
//! Families differ in a few fields of [`Decoder`] and in what they put in place of the feed-forward layer.

use hotset::plan::{Attention, Embedding, Ffn, Head, Norm, Part, Routed, SharedFfn, State, Step, Work};

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::rope;
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
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) qk_norm: QkNorm,
    pub(super) clip: Option<f32>,
    /// For each layer, how far it looks back; layers beyond the list see everything.
    pub(super) windows: Vec<Option<u32>>,
    pub(super) attention_scale: f32,
    pub(super) embedding_scale: f32,
    pub(super) residual_scale: f32,
    pub(super) logit_scale: f32,
    /// Names of the norms before attention and before the feed-forward layer.
    pub(super) norms: [&'static str; 2],
    /// Whether the output matrix is the embedding table where the configuration does not say.
    pub(super) tied: bool,
}

/// The two halves of a layer.
#[derive(Clone, Copy)]
pub(super) enum Half {
    Attention,
    Ffn,
}

impl Half {
    /// The name of its step, and the beginning of the names of its matrices.
    pub(super) fn step(self, layer: u32) -> String {
        match self {
            Half::Attention => format!("layers.{layer}.attention"),
            Half::Ffn => format!("layers.{layer}.ffn"),
        }
    }
}

/// Normalisation of queries and keys.
pub(super) enum QkNorm {
    None,
    /// Of each head.
    Head,
    /// Over the whole projected width.
    Full,
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
            qkv_bias: false,
            output_bias: false,
            qk_norm: QkNorm::None,
            clip: None,
            windows: Vec::new(),
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            norms: ["input_layernorm", "post_attention_layernorm"],
            tied: false,
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
        mut b: Builder<'_>,
        mut ffn: impl FnMut(&mut Builder<'_>, u32, &str, &str) -> Result<(Option<Routed>, Option<SharedFfn>)>,
    ) -> Result<Import> {
        let embedding = self.embedding(&config, &mut b)?;
        let rotation = b.rotation(rope::rotation(&config, self.head_dim, self.theta)?);
        for i in 0..self.layers {
            let attention = self.attention(&mut b, i, rotation)?;
            self.push(&mut b, i, Half::Attention, None, Work::Attention(attention))?;
            let (routed, shared) = ffn(&mut b, i, &Half::Ffn.step(i), &format!("model.layers.{i}"))?;
            self.push(&mut b, i, Half::Ffn, routed, Work::Ffn(Ffn { shared }))?;
        }
        self.finish(&config, b, embedding)
    }

    /// The embedding, with its table.
    pub(super) fn embedding(&self, config: &Config<'_>, b: &mut Builder<'_>) -> Result<Embedding> {
        b.embedding(TABLE, config.size("vocab_size")?, self.width, self.embedding_scale)
    }

    /// Adds one half of a layer to the plan.
    pub(super) fn push(&self, b: &mut Builder<'_>, layer: u32, half: Half, routed: Option<Routed>, work: Work) -> Result<()> {
        let norm = self.norm(b, layer, half)?;
        b.step(Step { routed, scale: self.residual_scale, ..Step::new(half.step(layer), Some(norm), work) });
        Ok(())
    }

    /// The norm before one half of a layer.
    pub(super) fn norm(&self, b: &mut Builder<'_>, layer: u32, half: Half) -> Result<Norm> {
        let name = self.norms[half as usize];
        b.rms(&format!("{}.norm", half.step(layer)), &format!("model.layers.{layer}.{name}"), self.width, self.eps)
    }

    /// The finished model.
    pub(super) fn finish(self, config: &Config<'_>, mut b: Builder<'_>, embedding: Embedding) -> Result<Import> {
        let (width, vocab) = (self.width, config.size("vocab_size")?);
        let norm = b.rms("head.norm", "model.norm", width, self.eps)?;
        let output = b.output(&embedding, config.flag("tie_word_embeddings", self.tied)?, TABLE, vocab, width)?;
        b.finish(width, vocab, config.context()?, embedding, Head { norm, output, scale: self.logit_scale })
    }

    /// The attention of a layer, nothing of which is routed.
    pub(super) fn attention(&self, b: &mut Builder<'_>, layer: u32, rotation: u32) -> Result<Attention> {
        let (step, prefix) = (Half::Attention.step(layer), format!("model.layers.{layer}.self_attn"));
        let Decoder { width, heads, kv_heads, head_dim, qkv_bias, .. } = *self;
        let (q, kv) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
        let mut linear = |part: &str, rows, cols, bias| {
            let linear = b.linear(&format!("{step}.{part}"), &format!("{prefix}.{part}_proj"), rows, cols, bias);
            linear.map(Part::Shared)
        };
        let parts = [
            linear("q", q, width, qkv_bias)?,
            linear("k", kv, width, qkv_bias)?,
            linear("v", kv, width, qkv_bias)?,
            linear("o", width, q, self.output_bias)?,
        ];
        Ok(Attention {
            scale: self.attention_scale,
            clip: self.clip,
            q_norm: self.qk_norm(b, &step, &prefix, "q_norm", q)?,
            k_norm: self.qk_norm(b, &step, &prefix, "k_norm", kv)?,
            rotation: Some(rotation),
            window: self.windows.get(layer as usize).copied().flatten(),
            ..Attention::new((heads, head_dim), parts, b.state(State::new(kv_heads, head_dim)))
        })
    }

    fn qk_norm(&self, b: &mut Builder<'_>, step: &str, prefix: &str, part: &str, full: u32) -> Result<Option<Norm>> {
        let len = match self.qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::Head => self.head_dim,
            QkNorm::Full => full,
        };
        b.rms(&format!("{step}.{part}"), &format!("{prefix}.{part}"), len, self.eps).map(Some)
    }
}

//! ModuleFormer (MoLM): stick-breaking attention whose queries and outputs are routed, routed feed-forward layers, no positions.

use hotset::plan::{Activation, Attention, AttentionKind, Expert, Ffn, Head, Linear, Part, Routed, Score, State, Step, Work};

use super::builder::Builder;
use super::config::Config;
use super::experts::top_k;
use super::{Import, Shape, Slice, Source, Usage};
use crate::failure::{Failure, Result};

/// The published code builds its norms without reading `layer_norm_epsilon`.
const EPS: f32 = 1e-5;

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    config.require("pre_norm", true)?;
    config.require("universal", false)?;
    if let Some(kind) = config.text("att_func")?.filter(|k| *k != "stickbreaking") {
        return Err(config.unsupported("att_func", &format!("{kind:?}")));
    }
    // Limits of training texts; an epsilon that the published code does not read; sampling of experts in training; routers' width.
    config.ignore(&["block_size", "history_length", "layer_norm_epsilon", "sample_topk", "gating_size"]);
    let (width, vocab) = (config.size("n_embd")?, config.size("vocab_size")?);
    let (heads, inner) = (config.size("n_head")?, config.size("att_hidden")?);
    if !inner.is_multiple_of(heads) {
        return Err(Failure::new(format!("config.json: att_hidden {inner} cannot be split into {heads} heads")));
    }
    let (head_dim, hidden) = (inner / heads, config.size("ffd_hidden")?);
    let attention_gate = Gate::read(&config, width, "n_att_experts", "k_att")?;
    let ffn_gate = Gate::read(&config, width, "n_mlp_experts", "k_mlp")?;
    let activation =
        if config.get("activation_function").is_some() { config.activation("activation_function")? } else { Activation::GeluTanh };
    // With one head as wide as the model, keys and values are the normalised input itself.
    let identity = inner == width && heads == 1;

    let embedding = b.embedding("transformer.wte.weight", vocab, width, 1.0)?;
    for i in 0..config.layers("n_layer")? {
        let (layer, step) = (format!("transformer.h.{i}"), format!("layers.{i}.attention"));
        let norm = Some(b.layer_norm(&format!("{step}.norm"), &format!("{layer}.ln_1"), width, EPS)?);
        let mut part = |part: &str| -> Result<Part> {
            if identity {
                return Ok(Part::Input);
            }
            b.linear(&format!("{step}.{part}"), &format!("{layer}.attn.{part}_proj"), inner, width, true).map(Part::Shared)
        };
        let (k, v) = (part("k")?, part("v")?);
        let signature = Expert::QueryOutput { heads, head_dim };
        let routed = attention_gate.routed(&mut b, &step, &format!("{layer}.attn.q_proj"), signature, inner)?;
        let state = b.state(State { tied: identity, ..State::new(heads, head_dim) });
        let attention = Attention::new((heads, head_dim), [Part::Expert, k, v, Part::Expert], state);
        let work = Work::Attention(Attention { kind: AttentionKind::StickBreaking, ..attention });
        b.step(Step { routed: Some(routed), ..Step::new(step, norm, work) });

        let step = format!("layers.{i}.ffn");
        let norm = Some(b.layer_norm(&format!("{step}.norm"), &format!("{layer}.ln_2"), width, EPS)?);
        let signature = Expert::Ffn { hidden, gated: false, activation, bias: false };
        let routed = ffn_gate.routed(&mut b, &step, &format!("{layer}.mlpf"), signature, hidden)?;
        b.step(Step { routed: Some(routed), ..Step::new(step, norm, Work::Ffn(Ffn { shared: None })) });
    }
    let norm = b.layer_norm("head.norm", "transformer.ln_f", width, EPS)?;
    let tied = config.flag("tie_word_embeddings", false)?;
    let output = b.output(&embedding, tied, "transformer.wte.weight", vocab, width)?;
    // Order is carried by the stick alone, so there is no limit to state.
    b.finish(width, vocab, None, embedding, Head { norm, output, scale: 1.0 })
}

/// A router and the experts behind it.
struct Gate {
    width: u32,
    experts: u32,
    k: u32,
    kind: GateKind,
}

enum GateKind {
    Linear,
    /// Hidden width.
    Mlp(u32),
    /// Cosine to centroids of this width.
    Centroids(u32),
}

impl Gate {
    fn read(config: &Config<'_>, width: u32, experts: &str, k: &str) -> Result<Gate> {
        let kind = match config.text("gate_type")?.unwrap_or("mlp") {
            "linear" => GateKind::Linear,
            "mlp" => GateKind::Mlp(config.size("gating_size")?),
            "gmm" => GateKind::Centroids(config.size("gating_size")?),
            other => return Err(config.unsupported("gate_type", &format!("{other:?}"))),
        };
        Ok(Gate { width, experts: config.size(experts)?, k: config.size(k)?, kind })
    }

    /// The router and the pool under `prefix`. Experts are stored inputs first: `[E, D, inner]` and `[E, inner, D]`.
    fn routed(&self, b: &mut Builder<'_>, step: &str, prefix: &str, expert: Expert, inner: u32) -> Result<Routed> {
        let score = self.score(b, &format!("{step}.router"), &format!("{prefix}.gate"))?;
        let input = b.tensor(&format!("{prefix}.experts.weight"), &[self.experts, self.width, inner])?;
        let output = b.tensor(&format!("{prefix}.output_experts.weight"), &[self.experts, inner, self.width])?;
        let record = |e: usize| -> Vec<Slice> { vec![input.expert(e).transposed(), output.expert(e).transposed()] };
        let pool = b.pool(format!("{step}.experts"), expert, (0..self.experts as usize).map(record).collect());
        Ok(top_k(pool, score, self.k, false))
    }

    fn score(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<Score> {
        let Gate { width, experts, .. } = *self;
        match self.kind {
            GateKind::Linear => Ok(Score::Linear(b.router(name, &format!("{prefix}.w_gate.0.weight"), experts, width)?)),
            GateKind::Mlp(size) => {
                let (first, second) = (format!("{name}.hidden"), format!("{name}.output"));
                let weight = b.router(&first, &format!("{prefix}.w_gate.0.weight"), size, width)?.weight;
                let bias = Some(b.vector(format!("{first}.bias"), &format!("{prefix}.w_gate.0.bias"), size)?);
                let output = b.router(&second, &format!("{prefix}.w_gate.3.weight"), experts, size)?;
                Ok(Score::Mlp { hidden: Linear { weight, bias }, activation: Activation::Gelu, output })
            }
            GateKind::Centroids(size) => {
                let projection = b.router(&format!("{name}.projection"), &format!("{prefix}.w_gate.weight"), size, width)?;
                let of = b.tensor(&format!("{prefix}.expert_centroids"), &[experts, size])?;
                let log_scale = b.tensor(&format!("{prefix}.temperature"), &[1])?;
                let shape = Shape::Matrix { rows: experts, cols: size };
                let source = Source::Directions { of, log_scale };
                let centroids = b.store(format!("{name}.centroids.weight"), shape, Usage::Router, source);
                Ok(Score::Cosine { projection, centroids })
            }
        }
    }
}

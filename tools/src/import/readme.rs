//! Read-ME: a small transformer beside the model, over an embedding of its own, names one expert for each token, and every layer of the
//! model takes that one. All experts a token needs are known before the first layer.

use hotset::plan::{
    Activation, Attention, Embedding, Expert, Feature, Ffn, Join, Linear, Part, Routed, Router, Score, Select, SharedFfn, State, Step,
    Stream, Value, Weigh, Work,
};

use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, Half, Layer};
use super::experts::{Gated, gated_ffn_of};
use super::{Import, Slice, Source, Usage, rope};
use crate::failure::{Failure, Result};

/// What the tensors of the model beside begin with.
const PREDICTOR: &str = "cluster_predictor";
/// Its norms are built without the configuration's epsilon.
const EPS: f32 = 1e-6;

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    config.require("add_cluster_predictor", true)?;
    // Set while the model beside is trained.
    config.ignore(&["train_predictor"]);
    let bias = config.flag("attention_bias", false)?;
    let decoder = Decoder { qkv_bias: bias, output_bias: bias, ..Decoder::read(&config, 1e-6)? };
    // Experts are cut out of layers of this width; how wide they are is up to the masks they were cut with.
    config.ignore(&["intermediate_size"]);
    let cut = Cut { width: decoder.width, experts: config.size("N_cluster")?, activation: config.activation("hidden_act")? };
    let router = Predictor::read(&config)?.build(&config, &mut b, cut.experts)?;

    let embedding = decoder.embedding(&config, &mut b)?;
    let rotation = decoder.rotation(&config, &mut b)?;
    for i in 0..decoder.layers {
        let (step, layer) = (Half::Mix.step(i), format!("model.layers.{i}"));
        let attention = decoder.attention(&mut b, Layer { number: i, step: &step, prefix: &layer, rotation })?;
        decoder.push(&mut b, i, Half::Mix, None, Work::Attention(attention))?;

        let (step, prefix) = (Half::Ffn.step(i), format!("{layer}.moe"));
        let pool = cut.pool(&mut b, &format!("{step}.experts"), &prefix)?;
        let shared = cut.residual(&mut b, &format!("{step}.residual"), &prefix)?;
        // Layers that were cut may still be there whole.
        b.ignore_all(&format!("{layer}.mlp."));
        decoder.push(&mut b, i, Half::Ffn, Some(Routed { pool, router: router.clone() }), Work::Ffn(Ffn { shared }))?;
    }
    decoder.finish(&config, b, embedding)
}

/// The hidden width that leads to the matrix back `tensor`: the configuration does not say it.
fn hidden_of(b: &Builder<'_>, tensor: &str) -> Result<u32> {
    b.columns(tensor).ok_or_else(|| {
        Failure::new(format!("the checkpoint lacks the tensor {tensor:?}; cut its layers into experts before converting it"))
    })
}

/// What layers were cut into.
struct Cut {
    width: u32,
    experts: u32,
    activation: Activation,
}

impl Cut {
    /// A layer's experts, each as wide as it was cut: all get the width of the widest, with neurons without weights.
    fn pool(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<u32> {
        let Cut { width, experts, activation } = *self;
        let mut cut = Vec::new();
        for e in 0..experts {
            let [gate, up, down] = ["gate", "up", "down"].map(|part| format!("{prefix}.{part}_proj_{e}.weight"));
            let own = hidden_of(b, &down)?;
            cut.push((own, b.tensor(&gate, &[own, width])?, b.tensor(&up, &[own, width])?, b.tensor(&down, &[width, own])?));
        }
        let hidden = cut.iter().map(|c| c.0).max().unwrap_or(0);
        let record = |(own, gate, up, down): (u32, Slice, Slice, Slice)| -> Vec<Source> {
            if own == hidden {
                return vec![gate.into(), up.into(), down.into()];
            }
            let longer = |slice: Slice| Source::Stack(vec![(own, slice.into()), (hidden - own, Source::Constant(0.0))]);
            vec![longer(gate), longer(up), Source::Widened(down)]
        };
        let signature = Expert::Ffn { hidden, gated: true, activation, bias: false };
        Ok(b.pool(name.to_owned(), signature, cut.into_iter().map(record).collect()))
    }

    /// What all experts of a layer have in common, where that is apart from them.
    fn residual(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<Option<SharedFfn>> {
        let names = ["gate_proj_residual", "up_proj_residual", "down_proj_residual"];
        if !names.iter().any(|n| b.has(&format!("{prefix}.{n}.weight"))) {
            return Ok(None);
        }
        let Cut { width, experts, activation } = *self;
        let hidden = hidden_of(b, &format!("{prefix}.down_proj_residual.weight"))?;
        gated_ffn_of(b, name, prefix, names, Gated { width, hidden, experts, activation }, false).map(Some)
    }
}

/// The model beside.
struct Predictor {
    width: u32,
    vocab: u32,
    layers: u32,
    heads: u32,
    head_dim: u32,
    activation: Activation,
    /// Multiplier of `q · k`.
    scale: f32,
    /// Whether it looks at earlier tokens.
    attends: bool,
}

impl Predictor {
    fn read(config: &Config<'_>) -> Result<Predictor> {
        let (width, heads, embedding) = (config.size("inter_dim")?, config.size("n_head")?, config.size("embedding_dim")?);
        if embedding != width {
            return Err(config.unsupported("embedding_dim", "another width than inter_dim"));
        }
        if !width.is_multiple_of(heads) {
            return Err(Failure::new(format!("config.json: inter_dim {width} cannot be split into {heads} heads")));
        }
        let normalizer = config.number_or("normalizer", 1.0)?;
        if normalizer == 0.0 {
            return Err(Failure::new("config.json: normalizer is 0; scores are divided by it"));
        }
        // Room for its positions, which a rotation does not need.
        config.ignore(&["max_position_embeddings_predictor"]);
        Ok(Predictor {
            width,
            vocab: config.size("vocab_size")?,
            layers: config.layers("n_layer")?,
            heads,
            head_dim: width / heads,
            activation: config.activation("hidden_act_predictor")?,
            scale: 1.0 / normalizer,
            attends: !config.flag("nonautoregressive", false)?,
        })
    }

    /// Its steps, and the router of all layers behind them.
    fn build(&self, config: &Config<'_>, b: &mut Builder<'_>, experts: u32) -> Result<Router> {
        let width = self.width;
        let table = b.tensor(&format!("{PREDICTOR}.embed.weight"), &[self.vocab, width])?;
        let table = b.matrix("predictor.embedding.weight", Usage::Vocabulary, table, self.vocab, width);
        let stream = b.stream(Stream { width, embedding: Some(Embedding::new(table, 1.0)) });
        let beside = |step: Step| Step { from: stream, to: stream, ..step };
        let rotation =
            if self.attends { Some(b.rotation(rope::plain(config.number("rope_theta")?.unwrap_or(1e4), self.head_dim)?)) } else { None };
        for i in 0..self.layers {
            if let Some(rotation) = rotation {
                let step = format!("predictor.{i}.attention");
                let norm = b.rms(&format!("{step}.norm"), &format!("{PREDICTOR}.input_layernorm_{i}"), width, EPS)?;
                let work = Work::Attention(self.attention(b, &step, i, rotation)?);
                b.step(beside(Step::new(step, Some(norm), work)));
            }
            let step = format!("predictor.{i}.ffn");
            let norm = b.rms(&format!("{step}.norm"), &format!("{PREDICTOR}.post_attention_layernorm_{i}"), width, EPS)?;
            let up = b.linear(&format!("{step}.up"), &format!("{PREDICTOR}.proj_1_{i}"), width, width, true)?;
            let down = b.linear(&format!("{step}.down"), &format!("{PREDICTOR}.proj_2_{i}"), width, width, true)?;
            let shared = Some(SharedFfn { gate: None, up, down, activation: self.activation, weigh: None });
            b.step(beside(Step::new(step, Some(norm), Work::Ffn(Ffn { shared }))));
        }
        let norm = b.rms("predictor.norm", &format!("{PREDICTOR}.out_layernorm"), width, EPS)?;
        b.step(beside(Step { join: Join::Replace, ..Step::new("predictor.norm".to_owned(), Some(norm), Work::Identity) }));
        let score = b.router("predictor.router", &format!("{PREDICTOR}.proj_out.weight"), experts, width)?;
        let bias = Some(b.vector("predictor.router.bias", &format!("{PREDICTOR}.proj_out.bias"), experts)?);
        // The one expert has weight 1.
        let router = Router::new(Score::Linear(Linear { bias, ..score }), Select::top_k(1), Weigh::by(Value::SoftmaxSelected));
        Ok(Router { feature: Feature::Stream(stream), ..router })
    }

    fn attention(&self, b: &mut Builder<'_>, step: &str, layer: u32, rotation: u32) -> Result<Attention> {
        let Predictor { width, heads, head_dim, scale, .. } = *self;
        let mut part = |part: &str| {
            let linear = b.linear(&format!("{step}.{part}"), &format!("{PREDICTOR}.{part}_proj_{layer}"), width, width, true);
            linear.map(Part::Shared)
        };
        let parts = [part("q")?, part("k")?, part("v")?, part("o")?];
        let state = b.state(State::new(heads, head_dim));
        Ok(Attention { scale, rotation: Some(rotation), ..Attention::new((heads, head_dim), parts, state) })
    }
}

//! gpt-oss: attention with sinks, every second layer with a window, routers and experts with biases, a clamped activation. Experts are
//! stored inputs first, or, as released, in MXFP4 blocks; gates and ups alternate.

use hotset::codec::GROUP;
use hotset::plan::{Activation, Expert, Score};

use super::builder::Builder;
use super::config::Config;
use super::decoder::Decoder;
use super::experts::top_k;
use super::{Import, Source};
use crate::failure::{Failure, Result};

pub(super) fn import(config: Config<'_>, b: Builder<'_>) -> Result<Import> {
    let (alpha, limit) = (config.number_or("swiglu_alpha", 1.702)?, config.number_or("swiglu_limit", 7.0)?);
    let experts = Experts {
        width: config.size("hidden_size")?,
        hidden: config.size("intermediate_size")?,
        count: config.size_of(&["num_local_experts", "num_experts"])?,
        activation: Activation::Clamped { alpha, limit },
    };
    let k = config.size_of(&["num_experts_per_tok", "experts_per_token"])?;
    let bias = config.flag("attention_bias", true)?;
    // The experts' activation has a shape of its own; the other key repeats what the rotation says.
    config.one_of("hidden_act", &["silu"])?;
    config.ignore(&["initial_context_length"]);
    if config.get("rope_scaling").or(config.get("rope_parameters")).is_none() {
        return Err(Failure::new("config.json: rope_scaling is missing".to_owned()));
    }
    let decoder = Decoder::read(&config, 1e-5)?;
    let windows = windows(&config, decoder.layers)?;
    let decoder = Decoder { theta: 150_000.0, sinks: true, qkv_bias: bias, output_bias: bias, windows, ..decoder };
    decoder.build(config, b, |b, _, step, prefix| {
        let prefix = format!("{prefix}.mlp");
        let mut score = b.router(&format!("{step}.router"), &format!("{prefix}.router.weight"), experts.count, experts.width)?;
        score.bias = Some(b.vector(format!("{step}.router.bias"), &format!("{prefix}.router.bias"), experts.count)?);
        let pool = experts.pool(b, &format!("{step}.experts"), &format!("{prefix}.experts"))?;
        Ok((Some(top_k(pool, Score::Linear(score), k, true)), None))
    })
}

/// Which layers look back how far: every second one, the first included, unless `layer_types` lists them.
fn windows(config: &Config<'_>, layers: u32) -> Result<Vec<Option<u32>>> {
    let window = config.size_opt("sliding_window")?;
    let default = || (0..layers).map(|i| if i.is_multiple_of(2) { "sliding_attention" } else { "full_attention" }).collect();
    let of = |kind: &str| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(config.unsupported("layer_types", &format!("{other:?}"))),
    };
    config.texts("layer_types", layers)?.unwrap_or_else(default).into_iter().map(of).collect()
}

/// Sizes of a layer's experts.
#[derive(Clone, Copy)]
struct Experts {
    width: u32,
    hidden: u32,
    count: u32,
    activation: Activation,
}

impl Experts {
    /// The pool `name` of the experts under `prefix`.
    fn pool(self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<u32> {
        let Experts { width, hidden, count, activation } = self;
        let both = hidden.saturating_mul(2);
        let gate_up_bias = b.tensor(&format!("{prefix}.gate_up_proj_bias"), &[count, both])?;
        let down_bias = b.tensor(&format!("{prefix}.down_proj_bias"), &[count, width])?;
        // `[2F, D]` of expert `e`: gates in even rows, ups in odd ones.
        let matrices: Box<dyn Fn(usize) -> [Source; 3]> = if b.has(&format!("{prefix}.gate_up_proj_blocks")) {
            let gate_up = self.blocks(b, &format!("{prefix}.gate_up_proj"), both, width)?;
            let down = self.blocks(b, &format!("{prefix}.down_proj"), width, hidden)?;
            Box::new(move |e| [gate_up(e, 0, 2), gate_up(e, 1, 2), down(e, 0, 1)])
        } else {
            let gate_up = b.tensor(&format!("{prefix}.gate_up_proj"), &[count, width, both])?;
            let down = b.tensor(&format!("{prefix}.down_proj"), &[count, hidden, width])?;
            Box::new(move |e| {
                let half = |first| gate_up.expert(e).columns_by(first..both, 2).transposed().into();
                [half(0), half(1), down.expert(e).transposed().into()]
            })
        };
        let record = |e: u32| -> Vec<Source> {
            let half = |first| gate_up_bias.rows(e..e + 1).columns_by(first..both, 2).into();
            let biases = [half(0), half(1), down_bias.rows(e..e + 1).into()];
            matrices(e as usize).into_iter().chain(biases).collect()
        };
        let expert = Expert::Ffn { hidden, gated: true, activation, bias: true };
        Ok(b.pool(name.to_owned(), expert, (0..count).map(record).collect()))
    }

    /// MXFP4 matrices `[rows, cols]` of all experts; gives of expert `e` the row `first` and then every `step`-th.
    fn blocks(self, b: &mut Builder<'_>, prefix: &str, rows: u32, cols: u32) -> Result<impl Fn(usize, u32, usize) -> Source + use<>> {
        let size = GROUP as u32;
        if !cols.is_multiple_of(size) {
            return Err(Failure::new(format!("config.json: {cols} values in a row cannot be cut into MXFP4 blocks of {size}")));
        }
        let blocks = b.tensor(&format!("{prefix}_blocks"), &[self.count, rows, cols / size, size / 2])?;
        let scales = b.tensor(&format!("{prefix}_scales"), &[self.count, rows, cols / size])?;
        Ok(move |e, first, step| {
            let part = |of: &super::Slice| of.expert(e).rows_by(first..rows, step);
            Source::Mxfp4 { blocks: part(&blocks), scales: part(&scales) }
        })
    }
}

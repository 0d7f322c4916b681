//! Routers of Mixture-of-Modules: they look at the residual stream as it is, and may choose to skip.

use hotset::plan::{Activation, Cell, Feature, Linear, Routed, Router, Score, Select, Value, Weigh};

use super::builder::Builder;
use super::config::Config;
use super::{Shape, Source, Usage};
use crate::failure::{Failure, Result};

/// What all routers of a model have in common.
pub(super) struct RouterKind {
    network: Network,
    /// Width of the residual stream, and of the network within.
    width: u32,
    inner: u32,
    /// What a router chooses from: modules, and beyond them nothing.
    classes: u32,
    /// How many it takes.
    k: u32,
    /// Multiplier of the logits, one over the temperature.
    scale: f32,
    weigh: Weigh,
}

#[derive(Clone, Copy, PartialEq)]
enum Network {
    Mlp,
    Gru,
    /// A recurrent unit whose new state does not depend on the old one, except for how much of that is kept.
    GruDev,
}

impl RouterKind {
    pub(super) fn read(config: &Config<'_>, width: u32) -> Result<RouterKind> {
        let kind = config.text("router_type")?.unwrap_or("naive");
        // The published code looks for words within the name.
        if let Some(word) = ["random", "sigmoid"].into_iter().find(|w| kind.contains(w)) {
            return Err(config.unsupported("router_type", &format!("{kind:?}, a router that is {word}")));
        }
        let network = match (kind.contains("naive"), kind.contains("gru"), kind.contains("dev")) {
            (true, _, _) => Network::Mlp,
            (_, true, true) => Network::GruDev,
            (_, true, false) => Network::Gru,
            _ => return Err(config.unsupported("router_type", &format!("{kind:?}"))),
        };
        let (attentions, ffns) = (config.size("num_attn")?, config.size("num_ffn")?);
        let modules = if network == Network::Gru { ffns.max(attentions) } else { ffns };
        let classes = modules + u32::from(config.flag("enable_pause", true)?);
        if attentions > classes && attentions > 1 {
            return Err(Failure::new(format!("config.json: num_attn is {attentions}; the router chooses from {classes} only")));
        }
        let (softmax, all) = (kind.contains("softmax"), config.flag("routing_all_possible_path", false)?);
        let k = if all { classes } else { config.size_opt("routing_top_k")?.unwrap_or(1).min(classes) };
        let temperature = config.number_or("router_softmax_temperature", 1.0)?;
        if softmax && temperature <= 0.0 {
            let message = format!("config.json: router_softmax_temperature is {temperature}; expected a positive number");
            return Err(Failure::new(message));
        }
        // The sign of a single renormalised weight is the weight itself.
        if config.flag("use_ste", false)? && !(softmax && k == 1 && !all) {
            return Err(config.unsupported("use_ste", "the signs of weights"));
        }
        config.ignore(&["routing_top_k"]);
        let by = match (softmax, all) {
            (false, _) => Value::Logit,
            (true, false) => Value::SoftmaxSelected,
            (true, true) => Value::Softmax,
        };
        let scale = if softmax { 1.0 / temperature } else { 1.0 };
        let inner = config.size_opt("router_dim")?.unwrap_or(256);
        Ok(RouterKind { network, width, inner, classes, k, scale, weigh: Weigh::by(by) })
    }

    /// Routes to `modules` modules of a pool; other classes skip. The router's tensors begin with `prefix`.
    pub(super) fn routed(&self, b: &mut Builder<'_>, pool: u32, modules: u32, name: &str, prefix: &str) -> Result<Routed> {
        b.alias(pool, (0..self.classes).map(|class| (class < modules).then_some(class)).collect());
        let score = self.score(b, &format!("{name}.router"), prefix)?;
        let router = Router::new(score, Select::top_k(self.k), self.weigh.clone());
        Ok(Routed { pool, router: Router { feature: Feature::Stream(0), ..router } })
    }

    fn score(&self, b: &mut Builder<'_>, name: &str, prefix: &str) -> Result<Score> {
        let RouterKind { width, inner, classes, .. } = *self;
        let linear = |b: &mut Builder<'_>, part: &str, tensor: &str, rows, cols| -> Result<Linear> {
            let weight = b.tensor(&format!("{prefix}.{tensor}.weight"), &[rows, cols])?;
            let bias = b.tensor(&format!("{prefix}.{tensor}.bias"), &[rows])?;
            let weight = b.matrix(format!("{name}.{part}.weight"), Usage::Router, weight, rows, cols);
            let bias = b.store(format!("{name}.{part}.bias"), Shape::Vector { len: rows }, Usage::Router, bias.into());
            Ok(Linear { weight, bias: Some(bias) })
        };
        let output = |b: &mut Builder<'_>, tensor: &str| -> Result<Linear> {
            let output = linear(b, "output", tensor, classes, inner)?;
            b.scale(&output.weight, self.scale);
            output.bias.iter().for_each(|bias| b.scale(bias, self.scale));
            Ok(output)
        };
        if self.network == Network::Mlp {
            let hidden = linear(b, "hidden", "router.0", inner, width)?;
            return Ok(Score::Mlp { hidden, activation: Activation::Relu, output: output(b, "router.2")? });
        }
        let gates = inner.saturating_mul(3);
        let input = linear(b, "input", "x2h", gates, width)?;
        let hidden = match self.network {
            Network::GruDev => {
                let (weight, bias) =
                    (b.tensor(&format!("{prefix}.h2h.weight"), &[gates, inner])?, b.tensor(&format!("{prefix}.h2h.bias"), &[gates])?);
                let weight = Source::Stack(vec![(2 * inner, weight.rows(0..2 * inner).into()), (inner, Source::Constant(0.0))]);
                let bias = Source::Chain(vec![(2 * inner, bias.columns(0..2 * inner).into()), (inner, Source::Constant(0.0))]);
                let weight = b.matrix(format!("{name}.hidden.weight"), Usage::Router, weight, gates, inner);
                let bias = b.store(format!("{name}.hidden.bias"), Shape::Vector { len: gates }, Usage::Router, bias);
                Linear { weight, bias: Some(bias) }
            }
            _ => linear(b, "hidden", "h2h", gates, inner)?,
        };
        Ok(Score::Recurrent { cell: Cell::Gru, memory: b.memory(inner), input, hidden, output: output(b, "router")? })
    }
}

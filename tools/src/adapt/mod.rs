//! Adapters as their authors publish them → the runtime's adapter files. A base model's decoder layers must be called as the importers
//! call them: `layers.<i>.attention.{q,k,v,o}` and `layers.<i>.ffn.{gate,up,down}`.

mod config;

use std::collections::{BTreeMap, BTreeSet};

use hotset::bundle::Manifest;
use hotset::plan::{Adapter, Delta, Linear, Name, Router, Rule, Score, Select, Tensors as _, Value, Weigh, Work};

use crate::checkpoint::{Checkpoint, View};
use crate::failure::{Failure, Result};
use crate::import::activation;
use config::{Config, Kind};

/// Rows, columns (none for a vector) and row-major values, by name.
pub(crate) type Tensors = BTreeMap<Name, (u32, Option<u32>, Vec<f32>)>;

/// The projections that can be adapted: their names in a checkpoint and in a bundle.
const PROJECTIONS: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attention.q"),
    ("self_attn.k_proj", "attention.k"),
    ("self_attn.v_proj", "attention.v"),
    ("self_attn.o_proj", "attention.o"),
    ("mlp.gate_proj", "ffn.gate"),
    ("mlp.up_proj", "ffn.up"),
    ("mlp.down_proj", "ffn.down"),
];

/// What the first mixtures called the projections of a feed-forward part.
const OLDEST: [(&str, &str); 3] = [("gate_proj", "w1_proj"), ("down_proj", "w2_proj"), ("up_proj", "w3_proj")];

/// Reads the adapter in `folder`, made for the model of `base`.
pub(crate) fn read(folder: &Checkpoint, base: &Manifest) -> Result<(Adapter, Tensors)> {
    let config = Config::read(folder.config())?;
    let mut import =
        Import { folder, base, kind: config.kind()?, config, used: BTreeSet::new(), adapter: Adapter::default(), tensors: Tensors::new() };
    let steps = (0u32..).zip(&base.plan.steps);
    for (step, layer) in steps.filter_map(|(i, s)| Some((i, s.name.strip_prefix("layers.")?.strip_suffix(".ffn")?.parse::<u32>().ok()?))) {
        import.layer(step, layer)?;
    }
    if let Some(left) = folder.tensors().keys().find(|n| !import.used.contains(*n)) {
        return Err(Failure::new(format!("the adapter's tensor {left:?} belongs to no part of the base model that hotset can adapt")));
    }
    if import.adapter.deltas.is_empty() {
        return Err(Failure::new("the adapter changes nothing in the base model; was it made for another one?"));
    }
    Ok((import.adapter, import.tensors))
}

struct Import<'a> {
    folder: &'a Checkpoint,
    base: &'a Manifest,
    config: Config,
    kind: Kind,
    used: BTreeSet<String>,
    adapter: Adapter,
    tensors: Tensors,
}

impl Import<'_> {
    fn layer(&mut self, step: u32, layer: u32) -> Result<()> {
        for (theirs, ours) in PROJECTIONS {
            let matrix = format!("layers.{layer}.{ours}.weight");
            let Some((rows, cols)) = self.base.tensors.matrix(&matrix) else { continue };
            let mixed = theirs.starts_with("mlp.") && matches!(self.kind, Kind::Mixture { .. });
            let routed = mixed || matches!(self.kind, Kind::Certain { .. });
            let pairs =
                if routed { self.experts(layer, theirs)? } else { self.pair(&[format!("layers.{layer}.{theirs}")]).map(|p| vec![p]) };
            let Some(pairs) = pairs else { continue };
            let experts = pairs.len() as u32;
            let (rank, scale) = self.config.rank(mixed);
            let (down, up) = self.stack(&pairs, rank, scale, rows, cols)?;
            let names = (format!("{matrix}.down"), format!("{matrix}.up"));
            self.tensors.insert(names.0.clone(), (experts * rank, Some(cols), down));
            self.tensors.insert(names.1.clone(), (rows, Some(experts * rank), up));
            let router = match self.kind {
                Kind::Certain { .. } => Some(self.router(&matrix, &[format!("layers.{layer}.{theirs}.moe_gate.weight")], cols)?),
                _ => None,
            };
            self.adapter.deltas.insert(matrix, Delta { experts, rank, down: names.0, up: names.1, router });
        }
        if matches!(self.kind, Kind::Mixture { .. }) {
            self.mixture(step, layer)?;
        }
        Ok(())
    }

    /// The router of a layer whose feed-forward part becomes a mixture.
    fn mixture(&mut self, step: u32, layer: u32) -> Result<()> {
        // Two generations of names.
        let names = [format!("layers.{layer}.mlp.moe_gate.weight"), format!("layers.{layer}.gate.weight")];
        let part = format!("layers.{layer}.ffn");
        if !["gate", "up", "down"].iter().any(|m| self.adapter.deltas.contains_key(&format!("{part}.{m}.weight"))) {
            // All experts are the part as it is, and so is their mixture.
            let routers: Vec<String> = names.iter().filter_map(|n| self.find(n)).collect();
            self.used.extend(routers);
            return Ok(());
        }
        if let (Some(name), Work::Ffn(ffn)) = (&self.config.act_fn, &self.base.plan.steps[step as usize].work) {
            let own = ffn.shared.as_ref().map(|s| s.activation);
            if own != activation(name) {
                return Err(Failure::new(format!(
                    "adapter_config.json: act_fn is {name:?}, which is not the base model's; hotset does not support this"
                )));
            }
        }
        let router = self.router(&part, &names, self.base.plan.width)?;
        self.adapter.mixtures.insert(step, router);
        Ok(())
    }

    /// The full name of the tensor that ends in `.name` or is called so; published adapters differ in what comes before the layers.
    fn find(&self, name: &str) -> Option<String> {
        let ends = |n: &&String| n.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.folder.tensors().keys().find(ends).cloned()
    }

    /// The two factors of the first of `prefixes` that has them.
    fn pair(&mut self, prefixes: &[String]) -> Option<(String, String)> {
        let found =
            prefixes.iter().find_map(|p| Some((self.find(&format!("{p}.lora_A.weight"))?, self.find(&format!("{p}.lora_B.weight"))?)))?;
        self.used.extend([found.0.clone(), found.1.clone()]);
        Some(found)
    }

    /// The factors of all experts of a projection; none when it is not adapted.
    fn experts(&mut self, layer: u32, projection: &str) -> Result<Option<Vec<(String, String)>>> {
        let short = projection.rsplit_once('.').map_or(projection, |p| p.1);
        let oldest = OLDEST.iter().find(|(name, _)| *name == short).map_or(short, |p| p.1);
        let mut pairs = Vec::new();
        for e in 0..self.config.num_experts {
            // Three generations of names.
            let names = [
                format!("layers.{layer}.{projection}.experts.{e}"),
                format!("layers.{layer}.experts.{e}.{short}"),
                format!("layers.{layer}.experts.{e}.{oldest}"),
            ];
            pairs.extend(self.pair(&names));
        }
        match pairs.len() as u32 {
            0 => Ok(None),
            n if n == self.config.num_experts => Ok(Some(pairs)),
            n => Err(Failure::new(format!("layer {layer} of the adapter has {n} of {} experts for {projection}", self.config.num_experts))),
        }
    }

    /// All `down` factors one below the other `[E·r, in]`, all `up` factors side by side `[out, E·r]` and scaled.
    fn stack(&self, pairs: &[(String, String)], rank: u32, scale: f32, rows: u32, cols: u32) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut down, wide) = (Vec::new(), rank as usize * pairs.len());
        let mut up = vec![0.0; rows as usize * wide];
        for (e, (a, b)) in pairs.iter().enumerate() {
            down.extend(self.values(a, rank, cols)?);
            let b = self.values(b, rows, rank)?;
            for (to, from) in up.chunks_mut(wide).zip(b.chunks(rank as usize)) {
                to[e * rank as usize..][..rank as usize].iter_mut().zip(from).for_each(|(t, f)| *t = f * scale);
            }
        }
        Ok((down, up))
    }

    /// A bias-free linear router whose weights are the first tensor of `names` that exists.
    fn router(&mut self, name: &str, names: &[String], width: u32) -> Result<Router> {
        let Some(tensor) = names.iter().find_map(|n| self.find(n)) else {
            return Err(Failure::new(format!("the adapter lacks the router {:?}", names[0])));
        };
        let (experts, weight) = (self.config.num_experts, format!("{name}.adapter.router"));
        let values = self.values(&tensor, experts, width)?;
        self.used.insert(tensor);
        self.tensors.insert(weight.clone(), (experts, Some(width), values));
        let score = Score::Linear(Linear { weight, bias: None });
        Ok(match self.kind {
            Kind::Certain { p, least, index, threshold, epsilon } => {
                let rule = Rule::Certain { p, least: least.min(experts), index, threshold, epsilon };
                Router::new(score, Select { by: Value::Softmax, rule, ..Select::top_k(1) }, Weigh::by(Value::Softmax))
            }
            Kind::Mixture { k } => Router::new(score, Select::top_k(k), Weigh::by(Value::SoftmaxSelected)),
            Kind::Plain => return Err(Failure::new("a plain adapter has no routers")),
        })
    }

    fn values(&self, name: &str, rows: u32, cols: u32) -> Result<Vec<f32>> {
        let shape = self.folder.tensors().get(name).map(|t| &t.shape);
        if shape.is_none_or(|s| *s != [rows as usize, cols as usize]) {
            return Err(Failure::new(format!(
                "the adapter's tensor {name:?} has shape {:?}; for this base model it should be [{rows}, {cols}]",
                shape.map_or(&[][..], Vec::as_slice)
            )));
        }
        let mut out = vec![0.0; rows as usize * cols as usize];
        let view = self.folder.tensors().get(name).and_then(|t| View::new(t, None));
        let view = view.ok_or_else(|| Failure::new(format!("the adapter's tensor {name:?} is no matrix")))?;
        self.folder.read(name, view, &mut out)?;
        Ok(out)
    }
}

//! Importers: each compiles the checkpoints of one family into a plan, and says in data where every weight comes from.
//!
//! An importer is a pure function of `config.json` and of the names and shapes of tensors, so it can be tested without weights, and the
//! writer can stream. This is the only place that knows families by name.

mod blockffn;
mod bookkeeping;
mod builder;
mod coe;
mod config;
mod decoder;
mod deepseek;
mod dynamic_moe;
mod encode;
mod ernie4_5_moe;
mod experts;
mod glm4_moe;
mod gpt_oss;
mod granite;
mod hunyuan_v1_moe;
mod jetmoe;
mod lfm2_moe;
mod llama;
mod llama_moe_v2;
mod mixtral;
mod mla;
mod moduleformer;
mod mom;
mod mom_router;
mod olmoe;
mod phimoe;
mod qwen2_moe;
mod qwen3_moe;
mod readme;
mod rmoe;
mod rope;
mod share;
mod slice;
mod source;
mod turned;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;

use hotset::plan::{Name, Plan};
use serde_json::{Map, Value};

use crate::checkpoint::Tensors;
use crate::failure::{Failure, Result};
use crate::packing::Usage;

use builder::Builder;
pub(crate) use config::activation;
use config::{Config, Read};

pub(crate) use encode::{DEFAULT, Options, write};
pub(crate) use slice::{Every, Slice};
pub(crate) use source::Source;

/// A model compiled from a checkpoint: what it computes, and where its weights come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Import {
    /// The pools' codecs are still to be chosen.
    pub(crate) plan: Plan,
    pub(crate) dense: BTreeMap<Name, Dense>,
    /// For each pool, for each record, the matrices in file order, then the bias of each where experts have them.
    pub(crate) experts: Vec<Vec<Vec<Source>>>,
}

/// A matrix or vector outside the pools.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    pub(crate) shape: Shape,
    pub(crate) usage: Usage,
    pub(crate) source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Vector { len: u32 },
    Matrix { rows: u32, cols: u32 },
}

type Importer = fn(Config<'_>, Builder<'_>) -> Result<Import>;

/// Families that took another's `model_type`, and keys that only they have.
const NAMESAKES: [(&str, &[&str], &str); 3] = [
    ("llama", &["add_cluster_predictor"], "readme"),
    ("llama", &["num_experts", "top_p_threshold"], "dynamic_moe"),
    ("mixtral", &["scale_factor", "num_moe_contract_layers", "use_attn_moe"], "llama_moe_v2"),
];

/// The families, by the `model_type` of their `config.json`.
const FAMILIES: [(&str, Importer); 24] = [
    ("coe_deepseekv2", coe::import),
    ("deepseek_v2", deepseek::import_v2),
    ("deepseek_v3", deepseek::import_v3),
    ("dynamic_moe", dynamic_moe::import),
    ("ernie4_5_moe", ernie4_5_moe::import),
    ("glm4_moe", glm4_moe::import),
    ("gpt2-mot", mom::import),
    ("gpt_oss", gpt_oss::import),
    ("granitemoe", granite::import),
    ("granitemoeshared", granite::import),
    ("hunyuan_v1_moe", hunyuan_v1_moe::import),
    ("jetmoe", jetmoe::import),
    ("lfm2_moe", lfm2_moe::import),
    ("llama", llama::import),
    ("llama_moe_rnn", rmoe::import),
    ("llama_moe_v2", llama_moe_v2::import),
    ("minicpm", blockffn::import),
    ("mixtral", mixtral::import),
    ("moduleformer", moduleformer::import),
    ("olmoe", olmoe::import),
    ("phimoe", phimoe::import),
    ("qwen2_moe", qwen2_moe::import),
    ("qwen3_moe", qwen3_moe::import),
    ("readme", readme::import),
];

/// Compiles a checkpoint; also returns the family's name.
pub(crate) fn import(json: &Map<String, Value>, tensors: &Tensors) -> Result<(&'static str, Import)> {
    compile(json, Builder::new(tensors))
}

/// Compiles a configuration alone; also returns what a checkpoint of it would hold.
pub(crate) fn blank(json: &Map<String, Value>) -> Result<(Tensors, Import)> {
    let (none, wanted) = (Tensors::new(), RefCell::default());
    let (_, import) = compile(json, Builder::wishing(&none, &wanted))?;
    Ok((wanted.into_inner(), import))
}

fn compile(json: &Map<String, Value>, builder: Builder<'_>) -> Result<(&'static str, Import)> {
    let read = Read::default();
    let config = Config::new(json, &read);
    let names = FAMILIES.map(|f| f.0).join(", ");
    let Some(model_type) = config.text("model_type")? else {
        return Err(Failure::new(format!("config.json: model_type is missing; expected one of {names}")));
    };
    let namesake =
        |(name, keys, _): &&(&str, &[&str], &str)| *name == model_type && keys.iter().any(|k| json.get(*k).is_some_and(|v| !v.is_null()));
    let model_type = NAMESAKES.iter().find(namesake).map_or(model_type, |n| n.2);
    let Some(&(family, importer)) = FAMILIES.iter().find(|f| f.0 == model_type) else {
        return Err(Failure::new(format!("config.json: model_type {model_type:?} is not supported; hotset knows {names}")));
    };
    // Importers that take blocks of mxfp4 find them by their names.
    if let Some(quantisation) = config.get("quantization_config")
        && quantisation.get("quant_method").and_then(Value::as_str) != Some("mxfp4")
    {
        return Err(config.unsupported("quantization_config", "weights quantised in a way other than mxfp4"));
    }
    let import = importer(config, builder)?;
    config.nothing_unread()?;
    Ok((family, import))
}

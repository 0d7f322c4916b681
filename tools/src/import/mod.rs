//! Importers: each compiles the checkpoints of one family into a plan, and says in data where every weight comes from.
//!
//! An importer is a pure function of `config.json` and of the names and shapes of tensors, so it can be tested without weights, and the
//! writer can stream. This is the only place that knows families by name.

mod builder;
mod config;
mod decoder;
mod encode;
mod experts;
mod granite;
mod jetmoe;
mod llama;
mod mixtral;
mod moduleformer;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;
mod rope;
mod source;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use hotset::plan::{Name, Plan};
use serde_json::{Map, Value};

use crate::checkpoint::Tensors;
use crate::failure::{Failure, Result};

use builder::Builder;
use config::Config;

pub(crate) use encode::{Options, write};
use source::{Slice, Source};

/// A model compiled from a checkpoint: what it computes, and where its weights come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Import {
    /// The pools' codecs are still to be chosen.
    pub(crate) plan: Plan,
    pub(crate) dense: BTreeMap<Name, Dense>,
    /// For each pool, for each record, the matrices in file order.
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

/// What a matrix is for, as far as its codec is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Usage {
    /// Multiplied with activations.
    Weight,
    /// Part of a router's score network.
    Router,
    /// The embedding table or the output head.
    Vocabulary,
}

type Importer = fn(Config<'_>, Builder<'_>) -> Result<Import>;

/// The families, by the `model_type` of their `config.json`.
const FAMILIES: [(&str, Importer); 9] = [
    ("granitemoe", granite::import),
    ("granitemoeshared", granite::import),
    ("jetmoe", jetmoe::import),
    ("llama", llama::import),
    ("mixtral", mixtral::import),
    ("moduleformer", moduleformer::import),
    ("olmoe", olmoe::import),
    ("qwen2_moe", qwen2_moe::import),
    ("qwen3_moe", qwen3_moe::import),
];

/// Compiles a checkpoint; also returns the family's name.
pub(crate) fn import(config: &Map<String, Value>, tensors: &Tensors) -> Result<(&'static str, Import)> {
    let config = Config::new(config);
    let names = FAMILIES.map(|f| f.0).join(", ");
    let Some(model_type) = config.text("model_type")? else {
        return Err(Failure::new(format!("config.json: model_type is missing; expected one of {names}")));
    };
    let Some(&(family, importer)) = FAMILIES.iter().find(|f| f.0 == model_type) else {
        return Err(Failure::new(format!("config.json: model_type {model_type:?} is not supported; hotset knows {names}")));
    };
    if config.get("quantization_config").is_some() {
        return Err(config.unsupported("quantization_config", "already quantised weights"));
    }
    let import = importer(config, Builder::new(tensors))?;
    Ok((family, import))
}

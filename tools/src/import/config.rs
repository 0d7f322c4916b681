//! Reading `config.json`: every value checked, every error naming its key.

use hotset::plan::{Activation, Caps};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

/// The keys of a model's configuration. Keys that are `null` count as absent.
#[derive(Clone, Copy)]
pub(crate) struct Config<'a> {
    map: &'a Map<String, Value>,
    /// Where the map is, for messages: empty or `rope_scaling.`
    path: &'static str,
}

impl<'a> Config<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Config<'a> {
        Config { map, path: "" }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The object under `key`.
    pub(crate) fn inner(&self, key: &'static str) -> Result<Option<Config<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Config { map, path: key })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// A size that must be there, from 1 to 2²⁰ (a vocabulary: 2²⁴).
    pub(crate) fn size(&self, key: &str) -> Result<u32> {
        self.size_opt(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn size_opt(&self, key: &str) -> Result<Option<u32>> {
        let cap = if key == "vocab_size" { Caps::VOCAB } else { Caps::WIDTH };
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if (1..=cap).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(key, value, &format!("a whole number from 1 to {cap}"))),
        }
    }

    /// The number of layers.
    pub(crate) fn layers(&self, key: &str) -> Result<u32> {
        let (layers, most) = (self.size(key)?, u32::try_from(Caps::ITEMS / 2).unwrap_or(u32::MAX));
        if layers > most {
            return Err(Failure::new(format!("config.json: {key} is {layers}; at most {most} layers are supported")));
        }
        Ok(layers)
    }

    /// The first of several spellings of a size.
    pub(crate) fn size_of(&self, keys: &[&str]) -> Result<u32> {
        let key = keys.iter().find(|k| self.get(k).is_some()).unwrap_or(&keys[0]);
        self.size(key)
    }

    /// Positions the model was trained for.
    pub(crate) fn context(&self) -> Result<Option<u32>> {
        let Some(value) = self.get("max_position_embeddings") else { return Ok(None) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if n > 0 => Ok(Some(n)),
            _ => Err(self.wrong("max_position_embeddings", value, "a positive whole number")),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if (n as f32).is_finite() => Ok(Some(n)),
            _ => Err(self.wrong(key, value, "a finite number")),
        }
    }

    pub(crate) fn number_or(&self, key: &str, default: f32) -> Result<f32> {
        Ok(self.number(key)?.map_or(default, |n| n as f32))
    }

    pub(crate) fn number_of(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "text")),
        }
    }

    /// A list of layer numbers; absent means empty.
    pub(crate) fn indices(&self, key: &str) -> Result<Vec<u64>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list: Option<Vec<u64>> = value.as_array().and_then(|a| a.iter().map(Value::as_u64).collect());
        list.ok_or_else(|| self.wrong(key, value, "a list of layer numbers"))
    }

    /// The non-linearity under `key`; SiLU when absent, as every gated family has it.
    pub(crate) fn activation(&self, key: &str) -> Result<Activation> {
        match self.text(key)?.unwrap_or("silu") {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(self.unsupported(key, &format!("the non-linearity {other:?}"))),
        }
    }

    /// Fails unless the flag under `key` has the only value this importer's maths knows.
    pub(crate) fn require(&self, key: &str, only: bool) -> Result<()> {
        if self.flag(key, only)? == only { Ok(()) } else { Err(self.unsupported(key, &format!("{}", !only))) }
    }

    pub(crate) fn unsupported(&self, key: &str, what: &str) -> Failure {
        Failure::new(format!("config.json: {}{key} asks for {what}, which this version of hotset does not support", self.prefix()))
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Failure {
        Failure::new(format!("config.json: {}{key} is {value}; expected {expected}", self.prefix()))
    }

    fn missing(&self, key: &str) -> Failure {
        Failure::new(format!("config.json: {}{key} is missing", self.prefix()))
    }

    fn prefix(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}.", self.path) }
    }
}

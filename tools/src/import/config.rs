//! Reading `config.json`: every value checked, every error naming its key, and no key left unread: an option that nobody asked for could
//! mean another model.

use std::cell::RefCell;
use std::collections::BTreeSet;

use hotset::plan::{Activation, Caps};
use serde_json::{Map, Value};

use super::bookkeeping;
use crate::failure::{Failure, Result};

/// The keys of a model's configuration. Keys that are `null` count as absent.
#[derive(Clone, Copy)]
pub(crate) struct Config<'a> {
    map: &'a Map<String, Value>,
    /// Where the map is: empty, or a key such as `rope_scaling`.
    path: &'static str,
    read: &'a Read,
}

/// Which keys were asked for, with their paths; those of an inner object count once it was opened.
#[derive(Default)]
pub(crate) struct Read {
    keys: RefCell<BTreeSet<String>>,
    opened: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Config<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, read: &'a Read) -> Config<'a> {
        Config { map, path: "", read }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.ignore(&[key]);
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Keys that the family has but that do not matter here: they change nothing, or nothing in this configuration.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        self.read.keys.borrow_mut().extend(keys.iter().map(|key| self.full(key)));
    }

    /// The object under `key`.
    pub(crate) fn inner(&self, key: &'static str) -> Result<Option<Config<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                self.read.opened.borrow_mut().insert(key);
                Ok(Some(Config { map, path: key, read: self.read }))
            }
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// Fails when there is a key that nobody read, unless it is known to have no influence on what a model computes.
    pub(crate) fn nothing_unread(&self) -> Result<()> {
        let read = self.read.keys.borrow();
        for (key, value) in self.map.iter().filter(|(_, v)| !v.is_null()) {
            let known = read.contains(&self.full(key)) || (self.path.is_empty() && bookkeeping::is(key));
            if !known {
                let key = self.full(key);
                return Err(Failure::new(format!(
                    "config.json: {key} is an option that this version of hotset does not know, at least not together with the others; \
                     if it does not change what the model computes, remove it"
                )));
            }
            let opened = self.read.opened.borrow().iter().copied().find(|o| o == key);
            if let (Some(path), Value::Object(map)) = (opened, value) {
                Config { map, path, read: self.read }.nothing_unread()?;
            }
        }
        Ok(())
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

    /// How many there are of something that a model may do without; absent means `default`.
    pub(crate) fn count(&self, key: &str, default: u32) -> Result<u32> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let n = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= Caps::WIDTH);
        n.ok_or_else(|| self.wrong(key, value, &format!("a whole number from 0 to {}", Caps::WIDTH)))
    }

    /// Fails unless the text under `key`, if there is one, is among those whose meaning is known.
    pub(crate) fn one_of(&self, key: &str, known: &[&str]) -> Result<()> {
        match self.text(key)?.filter(|t| !known.contains(t)) {
            None => Ok(()),
            Some(other) => Err(self.unsupported(key, &format!("{other:?}"))),
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

    /// A size that has several spellings. A file that has more than one of them must agree with itself.
    pub(crate) fn size_of(&self, keys: &[&str]) -> Result<u32> {
        let mut found: Option<(&str, u32)> = None;
        for key in keys {
            match (self.size_opt(key)?, found) {
                (Some(n), Some((other, m))) if n != m => {
                    return Err(Failure::new(format!("config.json: {} is {n} but {} is {m}", self.full(key), self.full(other))));
                }
                (Some(n), _) => found = Some((key, n)),
                (None, _) => {}
            }
        }
        found.map(|(_, n)| n).ok_or_else(|| self.missing(keys[0]))
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

    /// Numbers of a list; absent means none.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        let finite = list.filter(|l| l.iter().all(|n| (*n as f32).is_finite()));
        finite.map(Some).ok_or_else(|| self.wrong(key, value, "a list of finite numbers"))
    }

    /// The text under `key` for each of `layers` layers.
    pub(crate) fn texts(&self, key: &str, layers: u32) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list: Option<Vec<&str>> = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        let list = list.filter(|l| l.len() == layers as usize);
        list.map(Some).ok_or_else(|| self.wrong(key, value, &format!("a text for each layer, {layers} in all")))
    }

    /// A size for each of `layers` layers: a list, or one for all of them.
    pub(crate) fn sizes(&self, key: &str, layers: u32) -> Result<Option<Vec<u32>>> {
        let Some(Value::Array(list)) = self.get(key) else { return Ok(self.size_opt(key)?.map(|n| vec![n; layers as usize])) };
        let size = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=Caps::WIDTH).contains(n));
        let sizes = list.iter().map(size).collect::<Option<Vec<u32>>>().filter(|l| l.len() == layers as usize);
        let expected = format!("whole numbers from 1 to {}, one for each layer, {layers} in all", Caps::WIDTH);
        sizes.map(Some).ok_or_else(|| self.wrong(key, &Value::Array(list.clone()), &expected))
    }

    /// A list of layer numbers; absent means empty.
    pub(crate) fn indices(&self, key: &str) -> Result<Vec<u64>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list: Option<Vec<u64>> = value.as_array().and_then(|a| a.iter().map(Value::as_u64).collect());
        list.ok_or_else(|| self.wrong(key, value, "a list of layer numbers"))
    }

    /// The non-linearity under `key`; SiLU when absent, as every gated family has it.
    pub(crate) fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.text(key)?.unwrap_or("silu");
        activation(name).ok_or_else(|| self.unsupported(key, &format!("the non-linearity {name:?}")))
    }

    /// Fails unless the flag under `key` has the only value this importer's maths knows.
    pub(crate) fn require(&self, key: &str, only: bool) -> Result<()> {
        if self.flag(key, only)? == only { Ok(()) } else { Err(self.unsupported(key, &format!("{}", !only))) }
    }

    pub(crate) fn unsupported(&self, key: &str, what: &str) -> Failure {
        Failure::new(format!("config.json: {} asks for {what}, which this version of hotset does not support", self.full(key)))
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Failure {
        Failure::new(format!("config.json: {} is {value}; expected {expected}", self.full(key)))
    }

    fn missing(&self, key: &str) -> Failure {
        Failure::new(format!("config.json: {} is missing", self.full(key)))
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The non-linearity that transformers calls so; none when there is no such one here.
pub(crate) fn activation(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        _ => None,
    }
}

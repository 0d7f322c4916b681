//! `adapter_config.json`, as PEFT and the libraries of MixLoRA and DynMoLE write it.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

/// What matters when the adapter runs.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) peft_type: String,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    pub(super) num_experts: u32,
    top_k: Option<u32>,
    routing_strategy: Option<String>,
    /// The experts' non-linearity; absent means the base model's.
    pub(super) act_fn: Option<String>,
    top_p: Option<f32>,
    keep_top_k: Option<u32>,
    entropy_threshold: Option<f32>,
    entropy_index: Option<f32>,
    entropy_type: Option<String>,
    entropy_eps: Option<f32>,
    expert_lora: Option<ExpertLora>,
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What experts of a mixture have otherwise than the rest.
#[derive(Debug, Deserialize)]
struct ExpertLora {
    r: Option<u32>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    #[serde(default)]
    use_dora: bool,
}

/// How an adapter's experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// One addition to each matrix.
    Plain,
    /// Feed-forward parts become mixtures of the `k` best.
    Mixture { k: u32 },
    /// Each matrix has a router of its own.
    Certain { p: f32, least: u32, index: f32, threshold: f32, epsilon: f32 },
}

/// Keys that say how the adapter was trained or found, or whose usual value changes nothing.
const HARMLESS: [&str; 27] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "jitter_noise",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "lora_init",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "name",
    "peft_version",
    "qalora_group_size",
    "revision",
    "router_aux_loss_coef",
    "router_dyn_loss_coef",
    "router_init_range",
    "router_loss",
    "target_modules",
    "task_type",
    "adapter_name",
];

impl Config {
    pub(super) fn read(json: &Map<String, Value>) -> Result<Config> {
        let parsed = serde_json::from_value(Value::Object(json.clone()));
        let config: Config = parsed.map_err(|e| Failure::new(format!("adapter_config.json: {e}")))?;
        let nothing = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        let unknown = config.rest.iter().find(|(k, v)| !HARMLESS.contains(&k.as_str()) && !nothing(v));
        if let Some((key, value)) = unknown {
            return Err(Failure::new(format!("adapter_config.json: {key} is {value}, which this version of hotset does not know")));
        }
        if config.expert_lora.as_ref().is_some_and(|e| e.use_dora) {
            return Err(Failure::new("adapter_config.json: expert_lora.use_dora is true, which this version of hotset does not know"));
        }
        // These start from a part of the base model's weights and take it out of them, so the adapter is not for the base model as published.
        let replaces = |init: &str| ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|p| init.starts_with(p));
        if let Some(init) = config.init_lora_weights.as_ref().and_then(Value::as_str).filter(|i| replaces(&i.to_lowercase())) {
            return Err(Failure::new(format!(
                "adapter_config.json: init_lora_weights {init:?} changes the base model; PEFT can save such an adapter as a plain one \
                 (path_initial_model_for_weight_conversion)"
            )));
        }
        if config.r == 0 {
            return Err(Failure::new("adapter_config.json: r is 0; expected a positive rank"));
        }
        Ok(config)
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        let unsupported = |key: &str, value: &str| {
            Err(Failure::new(format!(
                "adapter_config.json: {key} {value:?} is not supported; hotset knows LoRA, MixLoRA and DynMoLE adapters"
            )))
        };
        if self.peft_type != "LORA" && self.num_experts == 0 {
            return Err(Failure::new("adapter_config.json: num_experts is missing"));
        }
        match (self.peft_type.as_str(), self.routing_strategy.as_deref()) {
            ("LORA", None) => Ok(Kind::Plain),
            // The older name and today's.
            ("MIXLORA", Some("mixtral" | "mixlora")) => Ok(Kind::Mixture { k: self.top_k.unwrap_or(2) }),
            ("DYNMOLE", None | Some("dynmole")) => {
                if let Some(other) = self.entropy_type.as_deref().filter(|t| *t != "tsallis") {
                    return unsupported("entropy_type", other);
                }
                let threshold = self.entropy_threshold.unwrap_or(0.9);
                Ok(Kind::Certain {
                    p: self.top_p.unwrap_or(0.75),
                    least: self.keep_top_k.unwrap_or(2),
                    index: self.entropy_index.unwrap_or(1.1),
                    // From 1 on it is switched off; rounding must not switch it on.
                    threshold: if threshold < 1.0 { threshold } else { 2.0 },
                    epsilon: self.entropy_eps.unwrap_or(1e-5),
                })
            }
            ("LORA" | "MIXLORA" | "DYNMOLE", strategy) => unsupported("routing_strategy", strategy.unwrap_or("none")),
            (other, _) => unsupported("peft_type", other),
        }
    }

    /// Rank and scale of additions: of an expert in a mixture, or others.
    pub(super) fn rank(&self, expert: bool) -> (u32, f32) {
        let own = self.expert_lora.as_ref().filter(|_| expert);
        let rank = own.and_then(|e| e.r).unwrap_or(self.r).max(1);
        let alpha = own.and_then(|e| e.lora_alpha).unwrap_or(self.lora_alpha);
        let stable = own.and_then(|e| e.use_rslora).unwrap_or(self.use_rslora);
        let divisor = if stable { f64::from(rank).sqrt() } else { f64::from(rank) };
        (rank, (alpha / divisor) as f32)
    }
}

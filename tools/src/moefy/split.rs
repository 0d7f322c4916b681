//! Into what a dense model is split, and whether it can be.

use serde_json::{Map, Value, json};

use super::shape::Shape;
use crate::failure::{Failure, Result};

/// The sizes and constants that the MoE has beyond those of the dense model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Split {
    /// Routed feed-forward experts of a layer, `E`.
    pub(crate) experts: usize,
    /// How many of them a token uses, `k`.
    pub(crate) top_k: usize,
    /// How many experts' worth of neurons every token uses besides, `R`.
    pub(crate) residual: usize,
    /// Multiplier of the experts' weights, which sum to one.
    pub(crate) scale: f64,
    /// Whether the experts' outputs have biases.
    pub(crate) bias: bool,
    /// The split of attention, if it is split.
    pub(crate) attention: Option<HeadSplit>,
}

/// Attention heads as experts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadSplit {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
    pub(crate) scale: f64,
}

impl Split {
    /// Neurons of one expert.
    pub(crate) fn hidden(&self, shape: &Shape) -> usize {
        shape.hidden / (self.experts + self.residual)
    }

    /// Fails when `shape` cannot be split like this.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let &Split { experts, top_k, residual, .. } = self;
        let parts = experts.saturating_add(residual);
        if experts == 0 || top_k == 0 || top_k > experts {
            return Err(Failure::new(format!("--top-k {top_k} of --experts {experts}: a token uses at least one expert, at most all")));
        }
        if !shape.hidden.is_multiple_of(parts) {
            let possible: Vec<String> = (2..=64).filter(|n| shape.hidden.is_multiple_of(*n)).map(|n| n.to_string()).collect();
            let n = shape.hidden;
            return Err(Failure::new(format!(
                "{n} neurons cannot be split into {parts} equal parts (--experts and --residual together); possible are {}",
                if possible.is_empty() { "none up to 64".to_owned() } else { possible.join(", ") }
            )));
        }
        let Some(heads) = &self.attention else { return Ok(()) };
        let (kv, group) = (shape.kv_heads, shape.heads / shape.kv_heads);
        if heads.experts % kv != 0 || group % (heads.experts / kv).max(1) != 0 || heads.experts == 0 {
            let possible: Vec<String> = (1..=group).filter(|s| group % s == 0).map(|s| (s * kv).to_string()).collect();
            return Err(Failure::new(format!(
                "--attention {}: {} query heads on {kv} key heads can be split into {} experts",
                heads.experts,
                shape.heads,
                possible.join(" or ")
            )));
        }
        if heads.top_k == 0 || heads.top_k > heads.experts {
            let HeadSplit { experts, top_k, .. } = heads;
            let message = format!("--attention-top-k {top_k} of {experts} attention experts: a token uses at least one, at most all");
            return Err(Failure::new(message));
        }
        Ok(())
    }

    /// The dense model's `config.json` as that of the MoE: keys as LLaMA-MoE v2 publishes them.
    pub(crate) fn config(&self, dense: &Map<String, Value>, shape: &Shape) -> Map<String, Value> {
        let hidden = self.hidden(shape);
        let mut config = dense.clone();
        // These have no meaning in the MoE.
        for key in ["pretraining_tp", "mlp_bias", "attention_bias", "auto_map", "_name_or_path"] {
            config.remove(key);
        }
        let own = json!({
            "add_rescale_bias": self.bias,
            "architectures": ["MixtralForCausalLM"],
            "attn_experts": self.attention.as_ref().map(|a| a.experts),
            "hidden_act": "silu",
            "intermediate_size": hidden,
            "intermediate_size_residual": (self.residual > 0).then_some(self.residual * hidden),
            "model_type": "mixtral",
            "moe_type": "modulelist",
            "num_experts_per_tok": self.top_k,
            "num_key_value_heads": shape.kv_heads,
            "num_local_experts": self.experts,
            "num_moe_contract_layers": 0,
            "output_router_logits": false,
            "rms_norm_eps": shape.eps,
            "router_aux_loss_coef": super::BALANCE,
            "scale_factor": self.scale,
            "scale_factor_attn": self.attention.as_ref().map(|a| a.scale),
            "sliding_window": null,
            "tie_word_embeddings": shape.tied,
            "top_k_attn": self.attention.as_ref().map(|a| a.top_k),
            "torch_dtype": "float32",
            "use_attn_moe": self.attention.is_some(),
            "use_layer_wise_balance": false,
        });
        if let Value::Object(own) = own {
            config.extend(own);
        }
        // transformers 5 says `dtype`; two that disagree would be worse than one.
        config.remove("dtype");
        config
    }
}

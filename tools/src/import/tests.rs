//! Tests: importers against configurations and tensor lists that are wrong. No weights are read.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::{Path, PathBuf};

use hotset::plan::{Feature, Score, Work};
use serde_json::{Map, Value, json};

use super::{Import, Shape, import, rope};
use crate::checkpoint::{Checkpoint, Tensors};
use crate::import::config::{Config, Read};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn open(case: &str) -> (Map<String, Value>, Tensors) {
    let checkpoint = Checkpoint::open(&golden(case)).unwrap();
    (checkpoint.config().clone(), checkpoint.tensors().clone())
}

fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir());
    folders.map(|e| e.file_name().into_string().unwrap()).collect()
}

/// What a configuration that differs in one key from a golden one leads to.
fn with(case: &str, key: &str, value: Value) -> Result<Import, String> {
    let (mut config, tensors) = open(case);
    config.insert(key.to_owned(), value);
    import(&config, &tensors).map(|i| i.1).map_err(|f| f.to_string())
}

fn refusal(case: &str, key: &str, value: Value) -> String {
    with(case, key, value).expect_err("refused")
}

/// Whatever stands in a configuration, the answer is a valid plan or a sentence; never a panic or an allocation without end.
#[test]
fn absurd_values_never_panic() {
    let absurd = [
        json!(0),
        json!(-1),
        json!(1),
        json!(7),
        json!(1e12),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(1.5),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([1, "x"]),
        json!({}),
        json!(true),
        json!(false),
        Value::Null,
    ];
    let (mut refused, mut accepted) = (0, 0);
    for case in cases() {
        let (config, tensors) = open(&case);
        for key in config.keys() {
            for value in &absurd {
                let mut config = config.clone();
                config.insert(key.clone(), value.clone());
                match import(&config, &tensors) {
                    Err(failure) => {
                        assert!(!failure.to_string().is_empty());
                        refused += 1;
                    }
                    Ok((_, import)) => {
                        assert_eq!(import.experts.len(), import.plan.pools.len());
                        accepted += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 1000 && accepted > 1000, "{refused} refused, {accepted} accepted");
}

/// Sizes that contradict the tensors, or each other, are errors that name the key or the tensor.
#[test]
fn absurd_sizes_are_named() {
    for key in ["hidden_size", "num_hidden_layers", "num_local_experts", "num_attention_heads", "vocab_size", "intermediate_size"] {
        for value in [json!(0), json!(-4), json!(1_000_000_000_000u64), json!("many")] {
            let message = refusal("mixtral", key, value.clone());
            assert!(message.contains(key), "{key} = {value}: {message}");
        }
    }
    let message = refusal("mixtral", "num_key_value_heads", json!(3));
    assert!(message.contains("num_key_value_heads = 3"), "{message}");
    let message = refusal("mixtral", "num_local_experts", json!(5));
    assert!(message.contains("gate.weight") && message.contains("[5, 32]"), "{message}");
    let message = refusal("mixtral", "num_hidden_layers", json!(3));
    assert!(message.contains("model.layers.2."), "{message}");
    let message = refusal("moduleformer", "n_head", json!(5));
    assert!(message.contains("att_hidden"), "{message}");
}

/// Fewer layers or experts than the checkpoint has would lose weights.
#[test]
fn nothing_is_left_over() {
    let message = refusal("olmoe", "num_hidden_layers", json!(1));
    assert!(message.contains("model.layers.1.") && message.contains("more"), "{message}");
    let message = refusal("qwen2_moe", "mlp_only_layers", json!([0]));
    assert!(message.contains("mlp.gate_proj"), "{message}");
    for case in cases() {
        let (config, mut tensors) = open(&case);
        let any = tensors.values().next().unwrap().clone();
        tensors.insert("model.layers.0.self_attn.surprise".to_owned(), any.clone());
        let message = import(&config, &tensors).expect_err("refused").to_string();
        assert!(message.contains("surprise"), "{case}: {message}");
        tensors.remove("model.layers.0.self_attn.surprise");
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), any);
        assert!(import(&config, &tensors).is_ok(), "{case}: constants are left out silently");
    }
}

/// Every tensor counts: without it, or with another shape, the import fails and names it.
#[test]
fn every_tensor_is_checked() {
    for case in cases() {
        let (config, tensors) = open(&case);
        let constant = |n: &str| [".attn.mask", ".attn.cum_weight", ".inv_freq"].iter().any(|end| n.ends_with(end));
        // Layers that only guess further tokens are left out.
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let beyond = |n: &str| {
            n.split('.').nth(2).and_then(|i| i.parse::<u64>().ok()).is_some_and(|i| n.starts_with("model.layers.") && i >= layers)
        };
        for name in tensors.keys().filter(|n| !constant(n) && !beyond(n)) {
            let tied_copy = name == "lm_head.weight" && config.get("tie_word_embeddings") == Some(&json!(true));
            let mut missing = tensors.clone();
            missing.remove(name);
            match import(&config, &missing) {
                Ok(_) => assert!(tied_copy, "{case}: {name} is not needed"),
                // Without it the other spelling of its name may be asked for.
                Err(failure) => assert!(failure.to_string().contains("lacks the tensor") || tied_copy, "{case}: {failure}"),
            }
            let mut longer = tensors.clone();
            longer.get_mut(name).unwrap().shape[0] += 1;
            let message = import(&config, &longer).expect_err("refused").to_string();
            assert!(message.contains(name.as_str()) || tied_copy, "{case}: {message}");
        }
    }
}

/// What this version cannot compute is refused by name, not computed wrongly.
#[test]
fn unsupported_options_are_named() {
    for (case, key, value, named) in [
        ("mixtral", "hidden_act", json!("mish"), "mish"),
        ("mixtral", "model_type", json!("mamba"), "mamba"),
        ("mixtral", "quantization_config", json!({ "bits": 4 }), "quantization_config"),
        ("mixtral", "partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("mixtral", "rope_parameters", json!({ "rope_type": "axial", "factor": 2.0 }), "axial"),
        ("mixtral", "rope_scaling", json!({ "type": "longrope" }), "short_factor"),
        ("mixtral", "rope_scaling", json!({ "type": "linear", "factor": 2.0, "mrope_section": [2, 2] }), "rope_scaling.mrope_section"),
        ("mixtral", "frobnicate", json!(false), "frobnicate"),
        ("mixtral", "rope_parameters", json!({ "rope_type": "linear" }), "factor"),
        ("olmoe", "clip_qkv", json!(-1.0), "clip_qkv"),
        ("deepseek_v2", "topk_method", json!("noaux_tc"), "noaux_tc"),
        ("deepseek_v2", "scoring_func", json!("sigmoid"), "sigmoid"),
        ("deepseek_v3", "scoring_func", json!("softmax"), "softmax"),
        ("deepseek_v3", "index_topk", json!(2048), "index_topk"),
        ("glm4_moe", "partial_rotary_factor", json!("half"), "partial_rotary_factor"),
        ("glm4_moe_old", "partial_rotary_factor", json!(1.5), "partial_rotary_factor"),
        ("gpt_oss", "layer_types", json!(["chunked_attention", "full_attention"]), "chunked_attention"),
        ("gpt_oss", "hidden_act", json!("gelu"), "gelu"),
        ("gpt_oss", "experts_per_token", json!(1), "experts_per_token"),
        ("lfm2_moe", "layer_types", json!(["mamba", "full_attention"]), "mamba"),
        ("phimoe", "num_experts_per_tok", json!(1), "num_experts_per_tok"),
        (
            "phimoe_longrope_long",
            "rope_scaling",
            json!({ "type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1] }),
            "short_factor",
        ),
        ("ernie4_5_moe", "moe_layer_end_index", json!(-2), "moe_layer_end_index"),
        ("qwen2_moe", "layer_types", json!(["full_attention", "chunked_attention"]), "layer_types"),
        ("qwen2_moe", "layer_types", json!(["full_attention", "sliding_attention"]), "use_sliding_window"),
        ("granitemoe", "logits_scaling", json!(0.0), "logits_scaling"),
        ("hunyuan_v1_moe", "rope_parameters", json!({ "rope_type": "dynamic", "alpha": -2.0 }), "alpha"),
        ("hunyuan_v1_moe", "moe_topk", json!([2, 2, 2]), "moe_topk"),
        ("hunyuan_v1_moe_old", "num_shared_expert", json!([1, 2, 1]), "num_shared_expert"),
        ("hunyuan_v1_moe_old", "use_cla", json!(true), "use_cla"),
        ("jetmoe", "glu", json!(false), "glu"),
        ("moduleformer", "att_func", json!("softmax"), "softmax"),
        ("moduleformer", "gate_type", json!("hash"), "hash"),
        ("moduleformer", "universal", json!(true), "universal"),
        ("moduleformer", "pre_norm", json!(false), "pre_norm"),
        ("moduleformer", "activation_function", json!("mish"), "mish"),
        ("mom_gru_k1", "router_type", json!("random_gru_softmax"), "random"),
        ("mom_gru_k1", "router_type", json!("linear"), "linear"),
        ("mom_gru_k1", "router_softmax_temperature", json!(0.0), "router_softmax_temperature"),
        ("mom_gru_k2", "use_ste", json!(true), "use_ste"),
        ("mom_naive_k1", "num_attn", json!(6), "num_attn is 6"),
        ("mom_naive_k1", "n_head", json!(5), "n_embd 32"),
        ("llama_moe_v2", "moe_type", json!("megablocks"), "megablocks"),
        ("llama_moe_v2_attn", "attn_experts", json!(1), "attn_experts = 1"),
        ("llama_moe_v2_attn", "attn_experts", json!(6), "attn_experts = 6"),
        ("llama_moe_v2_attn", "scale_factor_attn", json!(null), "scale_factor_attn"),
        ("dynamic_moe", "top_p_threshold", json!(-0.5), "top_p_threshold"),
        ("rmoe_gru", "moe_num_layers", json!(2), "moe_num_layers is 2"),
        ("coe_igate", "first_k_dense_replace", json!(1), "first_k_dense_replace"),
        ("coe_igate", "moe_layer_freq", json!(2), "moe_layer_freq"),
        ("coe_igate", "topk_method", json!("gready"), "gready"),
        ("coe_igate", "scoring_func", json!("sigmoid"), "sigmoid"),
        ("coe_igate", "outer_residual", json!(null), "outer_residual"),
        ("coe_igate", "rope_scaling", json!({ "type": "yarn", "factor": 2.0, "mscale": 0.7 }), "mscale"),
        ("blockffn", "ffn_type", json!("glu"), "glu"),
        ("blockffn", "attention_type", json!("linear"), "linear"),
        ("blockffn", "router_act", json!("sigmoid"), "sigmoid"),
        ("blockffn", "block_implementation", json!("fastmoe"), "fastmoe"),
        ("blockffn_sum_linear", "norm_scale", json!(0.0), "norm_scale"),
        ("blockffn_topk_shared", "moe_routing_strategy", json!("topp"), "topp"),
        ("blockffn_topk_shared", "moe_routing_strategy", json!("hash"), "hash"),
        ("blockffn_topk_shared", "num_shared_experts", json!(5), "num_shared_experts"),
        ("readme", "embedding_dim", json!(8), "embedding_dim"),
        ("readme", "n_head", json!(3), "inter_dim 16"),
        ("readme", "normalizer", json!(0), "normalizer"),
        ("readme", "add_cluster_predictor", json!(false), "add_cluster_predictor"),
    ] {
        let message = refusal(case, key, value);
        assert!(message.contains(named), "{case}: {message}");
    }
    let (mut config, tensors) = open("mixtral");
    config.remove("model_type");
    assert!(import(&config, &tensors).expect_err("refused").to_string().contains("qwen3_moe"));
}

/// Keys that published configurations have, beside those that decide something.
#[test]
fn published_keys_are_known() {
    for (case, keys) in [
        (
            "mixtral",
            json!({ "_name_or_path": "x", "torch_dtype": "bfloat16", "use_cache": true, "hidden_dropout": 0.0, "eos_token_id": [1, 2] }),
        ),
        ("deepseek_v2", json!({ "aux_loss_alpha": 0.001, "seq_aux": true, "ep_size": 1, "moe_layer_freq": 1, "scoring_func": "softmax" })),
        ("deepseek_v3", json!({ "topk_method": "noaux_tc", "scoring_func": "sigmoid", "auto_map": {}, "pretraining_tp": 1 })),
        ("gpt_oss", json!({ "initial_context_length": 4096, "experts_per_token": 2, "transformers_version": "4.55.0" })),
        ("phimoe", json!({ "input_jitter_noise": 0.01, "original_max_position_embeddings": 64, "hidden_dropout": 0.0 })),
        (
            "ernie4_5_moe",
            json!({ "moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_use_aux_free": true, "num_nextn_predict_layers": 1 }),
        ),
        ("qwen2_moe", json!({ "max_window_layers": 21, "sliding_window": 32768 })),
    ] {
        let (mut config, tensors) = open(case);
        config.extend(keys.as_object().unwrap().clone());
        let imported = import(&config, &tensors);
        assert!(imported.is_ok(), "{case}: {:?}", imported.err());
    }
}

/// How long conversations may become follows from the configuration.
#[test]
fn contexts() {
    for (case, context) in [
        ("mixtral", 128),
        ("mixtral_dynamic_long", 48),
        ("qwen3_moe_longrope_long", 128),
        ("deepseek_v3_yarn_old", 128),
        ("hunyuan_v1_moe", 128),
    ] {
        let (config, tensors) = open(case);
        assert_eq!(import(&config, &tensors).unwrap().1.plan.context, Some(context), "{case}");
    }
}

/// Families that share a `model_type` are told apart, and what one of them ignores is ignored.
#[test]
fn namesakes() {
    for (case, family) in [("mixtral", "mixtral"), ("llama_moe_v2", "llama_moe_v2"), ("dynamic_moe", "dynamic_moe"), ("readme", "readme")] {
        let (config, tensors) = open(case);
        assert_eq!(import(&config, &tensors).unwrap().0, family);
    }
    let theta = with("dynamic_moe_one", "rope_theta", json!(7.0)).unwrap();
    assert_eq!(theta, with("dynamic_moe_one", "rope_theta", json!(10_000.0)).unwrap());
}

/// Routers that look at a stream which no layer writes know their experts before the first layer.
#[test]
fn choices_that_are_known_ahead() {
    let (config, tensors) = open("readme");
    let plan = import(&config, &tensors).unwrap().1.plan;
    let routed: Vec<usize> = (0..plan.steps.len()).filter(|&i| plan.steps[i].routed.is_some()).collect();
    let last_write = plan.steps.iter().rposition(|s| s.to == 1).unwrap();
    assert!(routed.len() == 2 && last_write < routed[0], "{routed:?} {last_write}");
    let feature = |&i: &usize| plan.steps[i].routed.as_ref().unwrap().router.feature;
    assert!(routed.iter().map(feature).all(|f| f == Feature::Stream(1)));
}

/// Modules that several steps share are stored once, with a cache for each step; a router's classes beyond them skip.
#[test]
fn pools_are_shared_by_steps() {
    let (config, tensors) = open("mom_gru_k2");
    let plan = import(&config, &tensors).unwrap().1.plan;
    assert_eq!(plan.pools.len(), 2);
    assert_eq!(plan.pools[0].alias, Some(vec![Some(0), Some(1), Some(2), Some(3), None]));
    // A bottom, an anchor and a top layer, and four steps of the pools.
    assert_eq!((plan.states.len(), plan.memories.len()), (7, 2));
    let of_pool = |pool: u32| plan.steps.iter().filter(move |s| s.routed.as_ref().is_some_and(|r| r.pool == pool)).count();
    assert_eq!((of_pool(0), of_pool(1)), (4, 4));
}

/// A tied model that carries a copy of its table uses the table once; a copy that differs counts.
#[test]
fn tied_tables() {
    let (config, mut tensors) = open("granitemoe");
    let table = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), table.clone());
    let (_, shared) = import(&config, &tensors).unwrap();
    assert_eq!(shared.plan.head.output.weight, shared.plan.embedding.table);
    tensors.get_mut("lm_head.weight").unwrap().start += 4;
    let (_, own) = import(&config, &tensors).unwrap();
    assert_ne!(own.plan.head.output.weight, own.plan.embedding.table);
}

/// Layers whose experts pool differently keep their own numbers.
#[test]
fn shapes_in_the_plan_are_those_of_the_checkpoint() {
    let (config, tensors) = open("moduleformer_gmm");
    let (family, import) = import(&config, &tensors).unwrap();
    assert_eq!((family, import.plan.context, import.plan.rotations.len()), ("moduleformer", None, 0));
    let Work::Attention(attention) = &import.plan.steps[0].work else { panic!("attention comes first") };
    assert_eq!((attention.heads, attention.head_dim), (1, 12));
    let Score::Cosine { centroids, .. } = &import.plan.steps[0].routed.as_ref().unwrap().router.score else { panic!("a cosine router") };
    assert_eq!(import.dense[centroids].shape, Shape::Matrix { rows: 5, cols: 10 });
}

/// Frequencies and amplitudes as transformers 5.23.0 computes them, for heads of 16, in both spellings.
#[test]
fn rotations() {
    let check = |mut rope: Value, frequencies: [f32; 8], amplitude: f32| {
        let new = json!({ "rope_parameters": rope });
        let theta = rope.as_object_mut().unwrap().remove("rope_theta");
        let old = json!({ "rope_scaling": rope, "rope_theta": theta });
        for config in [new, old] {
            let r = rope::rotation(&Config::new(config.as_object().unwrap(), &Read::default()), 16, 10_000.0).unwrap();
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 3e-7 * b;
            assert!(r.frequencies.iter().zip(&frequencies).all(close), "{config}: {:?}", r.frequencies);
            assert!(close((&r.amplitude, &amplitude)), "{config}: {}", r.amplitude);
        }
    };
    check(
        json!({ "rope_type": "default", "rope_theta": 1e6 }),
        [1.0, 0.177_827_94, 0.031_622_78, 0.005_623_413_2, 0.001, 0.000_177_827_94, 3.162_277_4e-5, 5.623_413_5e-6],
        1.0,
    );
    check(
        json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4 }),
        [0.25, 0.079_056_94, 0.025, 0.007_905_695, 0.002_5, 0.000_790_569_5, 0.000_25, 7.905_695e-5],
        1.0,
    );
    check(
        json!({ "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 1e4 }),
        [1.0, 0.117_876_865, 0.013_894_955, 0.001_637_893_7, 0.000_193_069_78, 2.275_845_9e-5, 2.682_695_8e-6, 3.162_277_6e-7],
        1.0,
    );
    check(
        json!({ "rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 }),
        [1.0, 0.193_922_76, 0.037_606_03, 0.007_292_665, 0.000_524_846, 3.428_102_4e-5, 6.647_869_7e-6, 1.289_173_2e-6],
        1.0,
    );
    check(
        json!({ "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 32768 }),
        [1.0, 0.177_827_94, 0.031_622_78, 0.004_217_56, 0.000_5, 4.445_698_5e-5, 7.905_694e-6, 1.405_853_4e-6],
        1.138_629_4,
    );
    check(
        json!({
            "rope_type": "yarn", "factor": 16.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096,
            "beta_fast": 16, "beta_slow": 2, "truncate": false, "mscale": 0.7, "mscale_all_dim": 0.3,
        }),
        [1.0, 0.316_227_76, 0.1, 0.031_622_78, 0.005_952_024, 0.000_240_811_12, 6.25e-5, 1.976_423_7e-5],
        1.102_387_2,
    );
    check(
        json!({ "rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64, "attention_factor": 1.25 }),
        [1.0, 0.263_523_13, 0.066_666_66, 0.015_811_39, 0.005, 0.001_581_139, 0.000_5, 0.000_158_113_93],
        1.25,
    );
    let config = json!({ "max_position_embeddings": 64, "rope_scaling": { "rope_type": "yarn", "factor": 2.0 } });
    let plain = rope::rotation(&Config::new(config.as_object().unwrap(), &Read::default()), 16, 10_000.0).unwrap();
    assert!((plain.frequencies[1] - 0.263_523_13).abs() < 1e-6, "the original context defaults to max_position_embeddings");
}

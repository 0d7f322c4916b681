//! Keys of a `config.json` that say nothing about what the model computes: how it was trained, how text is generated with it, which program
//! wrote the file.

/// Endings of such keys.
const ENDINGS: [&str; 8] = ["_token_id", "dropout", "_dropout_prob", "_pdrop", "_dtype", "_loss_coef", "_loss_alpha", "_loss_weight"];

/// The others.
const KEYS: [&str; 66] = [
    // The file and the program that wrote it.
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "id2label",
    "is_composition",
    "keys_to_ignore_at_inference",
    "label2id",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "prefix",
    "problem_type",
    "return_dict",
    "return_dict_in_generate",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torch_compile",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_return_dict",
    // Training, and how the work is spread over machines.
    "aux_loss_type",
    "ep_size",
    "gradient_checkpointing",
    "initializer_factor",
    "initializer_range",
    "initializer_std",
    "pretraining_tp",
    "seq_aux",
    "use_cache",
    // What encoders have.
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_decoder",
    "is_encoder_decoder",
    "pruned_heads",
    "tie_encoder_decoder",
    // Generating text.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Whether `key` is one of them. Names with an underscore in front are private to whoever wrote the file.
pub(super) fn is(key: &str) -> bool {
    key.starts_with('_') || KEYS.contains(&key) || ENDINGS.iter().any(|e| key.ends_with(e))
}

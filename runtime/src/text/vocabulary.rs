//! Text ↔ token ids, by the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a `tokenizer.json` says.
pub(super) struct Vocabulary(pub(super) tokenizers::Tokenizer);

impl Vocabulary {
    /// Reads the file; the error says what is wrong with it.
    pub(super) fn read(json: &[u8]) -> Result<Vocabulary, String> {
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        // A training-time length limit, or padding, would silently change prompts.
        inner.with_truncation(None).map_err(|e| e.to_string())?.with_padding(None);
        Ok(Vocabulary(inner))
    }

    /// Token ids of `text`; special tokens spelled in it become those tokens.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(guarded(|| self.0.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// How `token` is spelled.
    pub(super) fn spelling(&self, token: u32) -> Option<String> {
        self.0.id_to_token(token)
    }

    /// Whether `token` has a meaning instead of a text.
    pub(super) fn is_special(&self, token: u32) -> bool {
        self.0.get_added_vocabulary().get_added_tokens_decoder().get(&token).is_some_and(|t| t.special)
    }

    /// Spellings of all special tokens.
    pub(super) fn specials(&self) -> Vec<String> {
        let added = self.0.get_added_tokens_decoder();
        added.values().filter(|t| t.special && !t.content.is_empty()).map(|t| t.content.clone()).collect()
    }

    /// The largest token id.
    pub(super) fn largest(&self) -> Option<u32> {
        self.0.get_vocab(true).into_values().max()
    }
}

/// Runs code that is known to panic on some malformed tokenizer files.
fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("its parts contradict each other".into()),
    }
}

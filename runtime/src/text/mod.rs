//! Text: tokenizer, incremental detokenisation, chat templates.

#[cfg(feature = "templates")]
mod jinja;
mod pieces;
mod template;
mod utf8;
#[cfg(feature = "tokenizer")]
mod vocabulary;

#[cfg(not(feature = "templates"))]
use crate::absent::jinja;
#[cfg(not(feature = "tokenizer"))]
use crate::absent::vocabulary;
use crate::bundle::{self, Bundle};
use crate::error::{Error, Result};

use pieces::Pieces;
use vocabulary::Vocabulary;

pub use template::{Message, Role};
pub(crate) use utf8::Utf8Stream;

/// The tokenizer of a bundle, with what the bundle says about its use.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    pieces: Pieces,
    settings: bundle::Text,
    /// Spellings of all special tokens, longest first.
    specials: Vec<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of `bundle`; `None` when it has none, and in a build without tokenizers (cargo feature `tokenizer`).
    ///
    /// # Errors
    /// When the file in the bundle is not a tokenizer, not one that can stream, or has more tokens than the model.
    pub fn of(bundle: &Bundle) -> Result<Option<Tokenizer>> {
        let parts = bundle.tokenizer().filter(|_| cfg!(feature = "tokenizer")).zip(bundle.manifest().text.clone());
        parts.map(|(json, settings)| Tokenizer::new(json, settings, bundle.plan().vocab)).transpose()
    }

    /// Reads the `tokenizer.json` of a model of `vocab` tokens, for use without a bundle.
    ///
    /// # Errors
    /// When it is not a tokenizer, not one that can stream, or has more tokens than the model.
    pub fn new(json: &[u8], settings: bundle::Text, vocab: u32) -> Result<Tokenizer> {
        let wrong = |what: String| Error::Text(format!("the tokenizer cannot be used: {what}"));
        let vocabulary = Vocabulary::read(json).map_err(wrong)?;
        let pieces = Pieces::parse(json).map_err(wrong)?;
        let largest = vocabulary.largest().into_iter().chain(settings.bos).chain(settings.eos.iter().copied()).max();
        if let Some(id) = largest.filter(|id| *id >= vocab) {
            return Err(wrong(format!("it has token {id}, the model's tokens end at {}", vocab - 1)));
        }
        let mut specials = vocabulary.specials();
        specials.sort_by_key(|s| std::cmp::Reverse(s.len()));
        Ok(Tokenizer { vocabulary, pieces, settings, specials })
    }

    /// Token ids of `text`, without a beginning-of-sequence token. Special tokens spelled in it, such as `<|im_start|>`, become those
    /// tokens: this is how prompts in a model's own format are written by hand. Do not put text of strangers here; a
    /// [`Chat`](crate::Chat) keeps it apart.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.vocabulary.encode(text).map_err(|e| Error::Text(format!("the tokenizer cannot encode this text: {e}")))
    }

    /// The text of `tokens`: special tokens are left out, bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        tokens.iter().for_each(|&t| self.bytes(t, &mut bytes));
        String::from_utf8_lossy(&bytes[self.leading(&bytes)..]).into_owned()
    }

    /// The beginning-of-sequence token, if plain prompts begin with one.
    pub fn bos(&self) -> Option<u32> {
        self.settings.bos.filter(|_| self.settings.add_bos)
    }

    /// The tokens that end an answer.
    pub fn eos(&self) -> &[u32] {
        &self.settings.eos
    }

    /// How the vocabulary spells `token`.
    pub fn spelling(&self, token: u32) -> Option<String> {
        self.vocabulary.spelling(token)
    }

    /// Whether `token` has a meaning instead of a text.
    pub fn is_special(&self, token: u32) -> bool {
        self.vocabulary.is_special(token)
    }

    /// Appends the bytes `token` stands for; nothing for special tokens and ids without a spelling.
    pub(crate) fn bytes(&self, token: u32, out: &mut Vec<u8>) {
        if !self.is_special(token)
            && let Some(spelling) = self.spelling(token)
        {
            self.pieces.bytes(&spelling, out);
        }
    }

    /// How many leading bytes of `text`, when nothing stands before it, are an artefact of the tokenizer.
    pub(crate) fn leading(&self, text: &[u8]) -> usize {
        self.pieces.leading(text)
    }
}

/// The error where a tokenizer is needed and there is none.
pub(crate) fn missing() -> Error {
    if cfg!(feature = "tokenizer") {
        Error::Text("this bundle has no tokenizer: it runs on token ids only".into())
    } else {
        Error::Input(crate::absent::without("tokenizers", "tokenizer", "it runs on token ids only"))
    }
}

#[cfg(all(test, feature = "templates"))]
pub(crate) mod tests;

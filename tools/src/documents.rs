//! What models are given to read: text files, or random tokens.

use std::path::Path;

use hotset::Error;
use hotset::text::Tokenizer;

use crate::failure::Result;

/// Line between documents.
const SEPARATOR: &str = "<|endoftext|>";

/// Whether a line separates documents.
pub(crate) fn is_separator(line: &str) -> bool {
    line.trim_end() == SEPARATOR
}

/// What the text at `path` is called: the stem of the file's name.
pub(crate) fn name(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The text at `path`.
pub(crate) fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?)
}

/// The tokens that `text` stands for: as it is, or, where it has separators, document by document, each trimmed. As in training, a document
/// begins with the token that the tokenizer begins texts with; where it has none, the model's own token ends the document.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    if !text.contains(SEPARATOR) {
        return Ok(tokenizer.encode(text)?);
    }
    let mut stream = Vec::new();
    for document in text.split(SEPARATOR).map(str::trim).filter(|d| !d.is_empty()) {
        stream.extend(tokenizer.bos());
        stream.extend(tokenizer.encode(document)?);
        if tokenizer.bos().is_none() {
            stream.extend(tokenizer.eos().first());
        }
    }
    Ok(stream)
}

/// Random tokens, the same every time: a multiplicative generator is random enough to visit the vocabulary evenly.
pub(crate) fn random(vocab: u32) -> impl Iterator<Item = u32> {
    (1..).map(move |i: u64| ((i * 0x9e37_79b9 % 0xffff_fffb) % u64::from(vocab)) as u32)
}

//! The tokens of a text of any length, a little at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use hotset::text::Tokenizer;

use crate::documents;
use crate::failure::{Failure, Result};

/// Bytes of a document after which its tokens are taken at the next end of a line.
const PIECE: usize = 1 << 20;

/// Tokens as [`documents::tokens`] gives them. A text without separators, or a document of more than a mebibyte, is cut at ends of lines.
pub(super) struct TokenStream<'a> {
    path: PathBuf,
    lines: BufReader<File>,
    tokenizer: &'a Tokenizer,
    waiting: Vec<u32>,
    bytes: u64,
}

impl<'a> TokenStream<'a> {
    pub(super) fn open(path: &Path, tokenizer: &'a Tokenizer) -> Result<TokenStream<'a>> {
        let file = File::open(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
        Ok(TokenStream { path: path.to_owned(), lines: BufReader::new(file), tokenizer, waiting: Vec::new(), bytes: 0 })
    }

    /// Bytes of the file that have been read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// The next `n` tokens, fewer at the end.
    pub(super) fn take(&mut self, n: usize) -> Result<Vec<u32>> {
        while self.waiting.len() < n {
            let Some(piece) = self.piece()? else { break };
            self.waiting.extend(documents::tokens(self.tokenizer, &piece)?);
        }
        let rest = self.waiting.split_off(n.min(self.waiting.len()));
        Ok(std::mem::replace(&mut self.waiting, rest))
    }

    /// Some whole lines: up to a separator, if there is one soon.
    fn piece(&mut self) -> Result<Option<String>> {
        let mut piece = String::new();
        while piece.len() < PIECE {
            let start = piece.len();
            let read = self.lines.read_line(&mut piece).map_err(|e| Failure::new(format!("cannot read {}: {e}", self.path.display())))?;
            self.bytes += read as u64;
            if read == 0 || documents::is_separator(&piece[start..]) {
                break;
            }
        }
        Ok((!piece.is_empty()).then_some(piece))
    }
}

//! What bytes a token stands for.
//!
//! A tokenizer's decoder works on whole texts, but a stream needs each token's bytes when the token arrives. The decoders of language
//! models (byte-level BPE; SentencePiece with `▁` and byte fallback) work token by token except for spaces at the very beginning, so
//! that is how they are kept here.

use serde::Deserialize;

/// The decoder section of a `tokenizer.json`.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Metaspace { replacement: char, prepend_scheme: Option<String>, add_prefix_space: Option<bool> },
    Replace { pattern: Pattern, content: String },
    Sequence { decoders: Vec<Decoder> },
    Strip { content: char, start: usize, stop: usize },
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
}

/// How tokens become bytes.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    replace: Vec<(String, String)>,
    byte_level: bool,
    byte_fallback: bool,
    /// Character and how many of it are removed at the beginning of a text.
    strip: Option<(char, usize)>,
}

impl Pieces {
    /// Reads the decoder section of a `tokenizer.json`; the error says what is not supported.
    pub(super) fn parse(json: &[u8]) -> Result<Pieces, String> {
        #[derive(Deserialize)]
        struct File {
            decoder: Option<Decoder>,
        }
        let file: File = serde_json::from_slice(json).map_err(|e| format!("its decoder cannot be used: {e}"))?;
        let mut pieces = Pieces::default();
        pieces.add(file.decoder.ok_or("it has no decoder")?)?;
        Ok(pieces)
    }

    fn add(&mut self, decoder: Decoder) -> Result<(), String> {
        match decoder {
            Decoder::ByteLevel {} => self.byte_level = true,
            Decoder::ByteFallback {} => self.byte_fallback = true,
            Decoder::Fuse {} => {}
            Decoder::Metaspace { replacement, prepend_scheme, add_prefix_space } => {
                self.replace.push((replacement.into(), " ".into()));
                let prefix = prepend_scheme.map_or(add_prefix_space.unwrap_or(true), |s| s != "never");
                self.strip = prefix.then_some((' ', 1));
            }
            Decoder::Replace { pattern: Pattern::String(from), content } => self.replace.push((from, content)),
            Decoder::Sequence { decoders } => decoders.into_iter().try_for_each(|d| self.add(d))?,
            Decoder::Strip { content, start, stop: 0 } => self.strip = Some((content, start)),
            Decoder::Strip { stop, .. } => {
                return Err(format!("its decoder strips {stop} characters at the end of the text, which a stream cannot do"));
            }
        }
        Ok(())
    }

    /// Appends the bytes of `token`, spelled as in the vocabulary.
    pub(super) fn bytes(&self, token: &str, out: &mut Vec<u8>) {
        let mut token = std::borrow::Cow::from(token);
        for (from, to) in &self.replace {
            if !from.is_empty() && token.contains(from) {
                token = token.replace(from, to).into();
            }
        }
        if let Some(byte) = self.byte_fallback.then(|| fallback_byte(&token)).flatten() {
            return out.push(byte);
        }
        let start = out.len();
        if self.byte_level && token.chars().try_for_each(|c| byte_level(c).map(|b| out.push(b))).is_some() {
            return;
        }
        // An added token with characters outside the alphabet is spelled plainly.
        out.truncate(start);
        out.extend_from_slice(token.as_bytes());
    }

    /// How many characters at the beginning of `text`, if it begins a text, do not belong to it, in bytes.
    pub(super) fn leading(&self, text: &[u8]) -> usize {
        self.strip.map_or(0, |(c, n)| {
            let mut buffer = [0; 4];
            let c = c.encode_utf8(&mut buffer).as_bytes();
            text.chunks(c.len()).take(n).take_while(|chunk| *chunk == c).count() * c.len()
        })
    }
}

/// The byte that a token such as `<0x0A>` spells.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>').filter(|h| h.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// The byte behind a character of the byte-level alphabet: printable Latin-1 stands for itself, the 68 other bytes for U+0100 on.
fn byte_level(c: char) -> Option<u8> {
    match c {
        '!'..='~' | '¡'..='¬' | '®'..='ÿ' => u8::try_from(u32::from(c)).ok(),
        _ => match u32::from(c).checked_sub(0x100)? {
            n @ 0..33 => u8::try_from(n).ok(),
            n @ 33..67 => u8::try_from(n - 33 + 127).ok(),
            67 => Some(0xad),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_byte_alphabet_is_complete() {
        let mut seen: Vec<u8> = ('\0'..='\u{200}').filter_map(byte_level).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level('Ġ'), Some(b' '));
        assert_eq!(byte_level('Ċ'), Some(b'\n'));
    }

    fn pieces(decoder: &str) -> Result<Pieces, String> {
        Pieces::parse(format!(r#"{{"version": "1.0", "decoder": {decoder}, "model": {{}}}}"#).as_bytes())
    }

    #[test]
    fn sentencepiece_tokens() {
        let p = pieces(
            r#"{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#,
        )
        .unwrap();
        let mut out = Vec::new();
        for t in ["▁a▁", "<0xE2>", "<0xzz>", "<0x0A>"] {
            p.bytes(t, &mut out);
        }
        assert_eq!(out, b" a \xe2<0xzz>\n");
        assert_eq!(p.leading(b"  a"), 1);
        assert_eq!(p.leading(b"a"), 0);
    }

    #[test]
    fn unknown_decoders_are_named() {
        assert!(pieces(r#"{"type": "WordPiece", "prefix": "", "cleanup": true}"#).unwrap_err().contains("WordPiece"));
        assert!(pieces(r#"{"type": "Strip", "content": " ", "start": 0, "stop": 1}"#).unwrap_err().contains("strips 1"));
        assert!(pieces("null").unwrap_err().contains("no decoder"));
    }
}

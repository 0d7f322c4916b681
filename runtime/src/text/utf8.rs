//! Bytes that arrive in pieces → whole characters.

/// Holds back the bytes of a character that is not complete yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8Stream {
    /// An incomplete character: at most 3 bytes between calls.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// Appends to `out` every character that is decided now. Bytes that cannot be part of any become U+FFFD, as in
    /// [`String::from_utf8_lossy`].
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.held.extend_from_slice(bytes);
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    self.held.clear();
                    return;
                }
                Err(e) => {
                    let (valid, tail) = rest.split_at(e.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = e.error_len() else {
                        self.held = tail.to_vec();
                        return;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &tail[bad..];
                }
            }
        }
    }

    /// The input ends: a character that never got complete becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_split_gives_the_lossy_text(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0xc0u8..=0xf4, 0x80u8..=0xbf], 0..40), cut in 1usize..7) {
            let mut stream = Utf8Stream::default();
            let mut out = String::new();
            for piece in bytes.chunks(cut) {
                stream.push(piece, &mut out);
                prop_assert!(stream.held.len() <= 3);
            }
            stream.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}

//! A valid file with patches: from one changed byte to arbitrary bytes from end to end.
//!
//! The input is a list of patches, each two bytes of offset, one of length, and the bytes themselves; an empty patch cuts the file there.

#![no_main]

use std::sync::LazyLock;

use hotset_fuzz::{open_and_use, tiny};
use libfuzzer_sys::fuzz_target;

static TINY: LazyLock<Vec<u8>> = LazyLock::new(tiny);

fuzz_target!(|input: &[u8]| {
    let (mut file, mut rest) = (TINY.clone(), input);
    while let [low, high, len, tail @ ..] = rest {
        let at = usize::from(u16::from_le_bytes([*low, *high])).min(file.len());
        let (patch, next) = tail.split_at(usize::from(*len).min(tail.len()));
        if patch.is_empty() {
            file.truncate(at);
        }
        let end = (at + patch.len()).min(file.len());
        file.splice(at..end, patch.iter().copied());
        rest = next;
    }
    open_and_use(&file);
});

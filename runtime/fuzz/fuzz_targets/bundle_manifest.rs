//! Any text in the place of the manifest of an otherwise valid file.

#![no_main]

use std::sync::LazyLock;

use hotset::bundle::BLOCK;
use hotset_fuzz::{header_end, open_and_use, tiny};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Header and data of the valid file.
static PARTS: LazyLock<(Value, Vec<u8>)> = LazyLock::new(|| {
    let file = tiny();
    let end = header_end(&file);
    (serde_json::from_slice(&file[8..end]).expect("our own header"), file[end..].to_vec())
});

fuzz_target!(|manifest: &str| {
    let (mut header, data) = PARTS.clone();
    header["__metadata__"]["hotset"] = manifest.into();
    let json = header.to_string();
    let end = (8 + json.len()).next_multiple_of(BLOCK);
    let mut file = ((end - 8) as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(end, b' ');
    file.extend(data);
    open_and_use(&file);
});

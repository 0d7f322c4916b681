//! The safetensors header, read strictly: no duplicates, no unknown fields, only whole one-dimensional tensors.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use super::{BLOCK, MAX_HEADER};

/// Key of the free-form strings of a safetensors header.
pub(super) const METADATA: &str = "__metadata__";

/// What the header says about one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorHeader {
    pub(super) dtype: Dtype,
    pub(super) shape: [usize; 1],
    /// Begin and end, counted from the start of the data.
    pub(crate) data_offsets: [usize; 2],
}

/// Element type of a tensor, as other safetensors readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub(crate) enum Dtype {
    /// A vector.
    F32,
    /// Everything else.
    U8,
}

impl TensorHeader {
    /// A tensor of `bytes` bytes that begins at `at`.
    pub(super) fn new(dtype: Dtype, at: usize, bytes: usize) -> TensorHeader {
        let size = match dtype {
            Dtype::F32 => 4,
            Dtype::U8 => 1,
        };
        TensorHeader { dtype, shape: [bytes / size], data_offsets: [at, at + bytes] }
    }
}

/// A whole header.
pub(crate) struct Header {
    /// Bytes before the data, length prefix and padding included.
    pub(crate) end: usize,
    /// Free-form strings.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Every tensor by name.
    pub(crate) tensors: BTreeMap<String, TensorHeader>,
}

impl Header {
    /// Reads the header at the front of a file. The error is a sentence about what is wrong.
    pub(crate) fn read(file: &[u8]) -> Result<Header, String> {
        let Some(prefix) = file.first_chunk::<8>() else {
            return Err(format!("header: the file has only {} bytes", file.len()));
        };
        let len = u64::from_le_bytes(*prefix);
        let end = usize::try_from(len).ok().filter(|&n| n <= MAX_HEADER).map(|n| n + 8);
        let Some(end) = end else {
            return Err(format!("header: length {len} is over the limit of {MAX_HEADER} bytes; this is no bundle"));
        };
        let Some(json) = file.get(8..end) else {
            return Err(format!("header: it should have {end} bytes, the file has {}; it is truncated or no bundle", file.len()));
        };
        if !end.is_multiple_of(BLOCK) {
            return Err(format!(
                "header: data begins at {end}, not at a multiple of {BLOCK}; a safetensors checkpoint must first go through `hotset convert`"
            ));
        }
        let json = std::str::from_utf8(json).map_err(|e| format!("header: {e}"))?;
        let Json { metadata, tensors } = parse(json).map_err(|e| format!("header: {e}"))?;
        Ok(Header { end, metadata: metadata.unwrap_or_default(), tensors })
    }
}

/// Parses JSON; the error names the field it is about.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| match e.path().to_string().as_str() {
        "." => e.into_inner().to_string(),
        path => format!("{path}: {}", e.inner()),
    })?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// The header's JSON object.
struct Json {
    metadata: Option<BTreeMap<String, String>>,
    tensors: BTreeMap<String, TensorHeader>,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a safetensors header")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut json = Json { metadata: None, tensors: BTreeMap::new() };
                while let Some(key) = map.next_key::<String>()? {
                    let twice = if key == METADATA {
                        let Unique(metadata) = map.next_value()?;
                        json.metadata.replace(metadata).is_some()
                    } else {
                        json.tensors.insert(key.clone(), map.next_value()?).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{key:?} appears twice")));
                    }
                }
                Ok(json)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A map in which no key appears twice; serde's own keeps the last value silently.
struct Unique<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique<V>, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if entries.insert(key.clone(), map.next_value()?).is_some() {
                        return Err(A::Error::custom(format!("{key:?} appears twice")));
                    }
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// For `#[serde(deserialize_with)]`: a map in which no key appears twice.
pub(super) fn unique<'de, D: Deserializer<'de>, V: Deserialize<'de>>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error> {
    Unique::deserialize(deserializer).map(|u| u.0)
}

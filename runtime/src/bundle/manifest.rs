//! The manifest: what `__metadata__["hotset"]` says about the rest of the file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FORMAT;
use super::header::{self, unique};
use crate::codec::{Codec, Layout};
use crate::plan::{self, Name, Plan, Tensors};

/// Everything about a bundle that is not weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the file format.
    pub format: u32,
    /// What the model computes.
    pub plan: Plan,
    /// Shape and codec of every dense tensor.
    #[serde(deserialize_with = "unique")]
    pub tensors: BTreeMap<Name, TensorInfo>,
    /// Present when the bundle has a tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Where the bundle comes from.
    pub provenance: Provenance,
    /// blake3 of each region (`dense`, `tokenizer`, then one per pool by name), hexadecimal.
    #[serde(deserialize_with = "unique")]
    pub hashes: BTreeMap<String, String>,
    /// blake3 of plan, tensor table and hashes, hexadecimal: profiles are tied to it.
    pub fingerprint: String,
}

/// The versions alone: a manifest from the future has fields that [`Manifest`] does not know.
#[derive(Deserialize)]
struct Versions {
    format: u32,
    plan: PlanVersion,
}

#[derive(Deserialize)]
struct PlanVersion {
    version: u32,
}

impl Manifest {
    /// Reads the manifest of a file. The error is a sentence that names the wrong field.
    pub(super) fn read(json: &str) -> Result<Manifest, String> {
        let found: Versions = header::parse(json).map_err(|e| format!("manifest: {e}"))?;
        for (field, version, newest) in [("format", found.format, FORMAT), ("plan.version", found.plan.version, plan::VERSION)] {
            if version > newest {
                return Err(format!("{field}: {version} is newer than this reader's {newest}; update hotset"));
            }
            if version == 0 {
                return Err(format!("{field}: there is no version 0"));
            }
        }
        header::parse(json).map_err(|e| format!("manifest: {e}"))
    }
}

/// Shape and codec of a dense tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TensorInfo {
    /// `len` f32 values, stored plain.
    Vector {
        /// Elements.
        len: u32,
    },
    /// A matrix in panel layout.
    Matrix {
        /// Outputs.
        rows: u32,
        /// Inputs.
        cols: u32,
        /// Element format.
        codec: Codec,
    },
}

impl TensorInfo {
    /// Bytes in the file, padding included; `None` for shapes that cannot be stored.
    pub fn bytes(&self) -> Option<usize> {
        match *self {
            TensorInfo::Vector { len } => (len > 0 && len <= 1 << 26).then(|| (len as usize * 4).next_multiple_of(crate::codec::ALIGN)),
            TensorInfo::Matrix { .. } => self.layout().map(|l| l.bytes()),
        }
    }

    /// Layout of a matrix.
    pub fn layout(&self) -> Option<Layout> {
        match *self {
            TensorInfo::Vector { .. } => None,
            TensorInfo::Matrix { rows, cols, codec } => Layout::new(codec, rows as usize, cols as usize),
        }
    }
}

impl Tensors for BTreeMap<Name, TensorInfo> {
    fn matrix(&self, name: &str) -> Option<(u32, u32)> {
        match self.get(name) {
            Some(&TensorInfo::Matrix { rows, cols, .. }) => Some((rows, cols)),
            _ => None,
        }
    }

    fn vector(&self, name: &str) -> Option<u32> {
        match self.get(name) {
            Some(&TensorInfo::Vector { len }) => Some(len),
            _ => None,
        }
    }
}

/// How text becomes token ids and back. The tokenizer itself is the tensor `tokenizer.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The checkpoint's chat template (Jinja), if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Beginning-of-sequence token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<u32>,
    /// Whether plain prompts begin with `bos`.
    #[serde(default)]
    pub add_bos: bool,
    /// Tokens that end an answer.
    #[serde(default)]
    pub eos: Vec<u32>,
}

/// Where a bundle comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the model: by default the checkpoint folder's.
    pub name: String,
    /// Checkpoint family, for people only; the runtime never looks at it.
    pub family: String,
    /// Tool and version that wrote the file.
    pub tool: String,
    /// What was done to the weights, in order, such as `converted to q4`.
    #[serde(default)]
    pub history: Vec<String>,
    /// Fingerprint of the bundle that this one was made from expert by expert: what is known of its experts is true of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

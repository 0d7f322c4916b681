//! The bundle: one `.hotset` file, a valid safetensors file, that holds weights and plan.
//!
//! | part | holds |
//! |---|---|
//! | header | safetensors JSON, padded with spaces so that data begins at a multiple of [`BLOCK`]; `__metadata__["hotset"]` is the [`Manifest`] |
//! | dense region | vectors (`F32`) and matrices (`U8`, [panel layout](crate::codec)), each padded to 256 bytes |
//! | `tokenizer.json` | optional, `U8` |
//! | padding | `hotset.padding`, up to the next multiple of [`BLOCK`] |
//! | records | pool after pool; record `i` of a pool is the `U8` tensor `<pool>.<i>` and a multiple of [`BLOCK`] long |
//!
//! A reader validates everything once, when it opens the file, and trusts it afterwards. Opening maps the file; nothing is read that is not
//! needed.

mod adapter;
mod cost;
mod file;
mod header;
mod manifest;
mod pruned;
mod read;
mod record;
mod write;

pub use adapter::Adapter;
pub use cost::Cost;
pub use file::Reading;
pub(crate) use header::{Header, parse as parse_json};
pub use manifest::{Manifest, Provenance, TensorInfo, Text};
pub use read::Bundle;
pub use record::{RecordLayout, RecordView};
pub use write::{BundleWriter, Entry};
pub(crate) use write::{begin, keep, safetensors};

/// Bundle format version. A reader refuses larger ones.
pub const FORMAT: u32 = 1;
/// Alignment of the data region and of every record: one aligned read per expert, on any file system.
pub const BLOCK: usize = 16 * 1024;
/// Longest header a reader accepts: a hundred thousand experts fit.
pub const MAX_HEADER: usize = 16 << 20;
/// Most tensors of a bundle: about as many as the longest header can name.
pub const MAX_TENSORS: usize = 1 << 18;
/// Name of the tokenizer's tensor.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the tensor that fills the gap before the records.
pub const PADDING: &str = "hotset.padding";

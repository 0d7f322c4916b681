//! Writing an import as a bundle: choose codecs, and say for every matrix of the file where in the checkpoint its values are.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use hotset::bundle::{FORMAT, Manifest, Provenance, RecordLayout, TensorInfo};
use hotset::codec::Codec;

use super::share::share;
use super::{Dense, Import, Shape, Source};
use crate::checkpoint::{Checkpoint, Tokenizer};
use crate::failure::{Failure, Result};
use crate::packing::{self, Content, Stored, Values, Watch};

/// The codec where none is asked for.
pub(crate) const DEFAULT: Codec = Codec::Q4;

/// How to write a bundle.
pub(crate) struct Options<'a> {
    pub(crate) target: &'a Path,
    /// Of all matrices but routers; the default is [`DEFAULT`], with experts that were published in mxfp4 kept as they are.
    pub(crate) codec: Option<Codec>,
    pub(crate) family: &'a str,
    /// Set from elsewhere to stop between two batches.
    pub(crate) stop: &'a AtomicBool,
    /// Told how many bytes were written, and of how many, again and again.
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// Writes the bundle; nothing appears at the target unless everything succeeds.
pub(crate) fn write(checkpoint: &Checkpoint, import: Import, tokenizer: Option<Tokenizer>, options: &Options<'_>) -> Result<Manifest> {
    let mut import = import;
    share(checkpoint, &mut import.plan, &mut import.experts)?;
    let codec = options.codec.unwrap_or(DEFAULT);
    let mut manifest = manifest(&import, options.codec);
    let layouts: Option<Vec<_>> = manifest.plan.pools.iter().map(|p| RecordLayout::of(p, manifest.plan.width)).collect();
    let layouts = layouts.ok_or_else(|| Failure::new("an expert is too large to store"))?;
    let (json, text) = tokenizer.map(|t| (t.json, t.text)).unzip();
    manifest.text = text;
    (manifest.provenance.name, manifest.provenance.family) = (checkpoint.name(), options.family.to_owned());

    let Import { dense, experts, .. } = import;
    let dense = dense.values().map(|d| Content::Values(vec![d.stored(codec, checkpoint)])).collect();
    let values = |source| (Read { checkpoint, source }, None);
    let records =
        experts.iter().zip(&layouts).flat_map(|(pool, layout)| pool.iter().map(|r| Content::record(r.iter().map(values), layout)));
    let records = records.collect();
    let watch = Watch { stop: options.stop, progress: options.progress, release: &|| checkpoint.release() };
    packing::write(options.target, manifest, json.as_deref(), (dense, records), watch)
}

/// What the file will say, but for its text and where it is from.
pub(crate) fn manifest(import: &Import, asked: Option<Codec>) -> Manifest {
    let codec = asked.unwrap_or(DEFAULT);
    let mut plan = import.plan.clone();
    let mut history = format!("converted to {codec}");
    for (pool, records) in plan.pools.iter_mut().zip(&import.experts) {
        let published = records.iter().flatten().any(|s| matches!(s, Source::Mxfp4 { .. }));
        pool.codec = if published && asked.is_none() { Codec::Mxfp4 } else { codec };
    }
    if plan.pools.iter().any(|p| p.codec != codec) {
        history += ", experts kept in mxfp4";
    }
    let tensors = import.dense.iter().map(|(name, d)| (name.clone(), d.info(codec))).collect();
    let tool = format!("hotset {}", env!("CARGO_PKG_VERSION"));
    let provenance = Provenance { tool, history: vec![history], ..Provenance::default() };
    let (text, hashes, fingerprint) = Default::default();
    Manifest { format: FORMAT, plan, tensors, text, provenance, hashes, fingerprint }
}

/// The values of a source.
struct Read<'a> {
    checkpoint: &'a Checkpoint,
    source: &'a Source,
}

impl Values for Read<'_> {
    fn read(&self, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        self.source.read(self.checkpoint, rows, cols, out)
    }

    fn name(&self) -> &str {
        self.source.tensor()
    }
}

impl Dense {
    fn info(&self, requested: Codec) -> TensorInfo {
        match self.shape {
            Shape::Vector { len } => TensorInfo::Vector { len },
            Shape::Matrix { rows, cols } => TensorInfo::Matrix { rows, cols, codec: self.usage.codec(requested) },
        }
    }

    /// Vectors stay f32; they are nothing beside the matrices.
    fn stored<'a>(&'a self, requested: Codec, checkpoint: &'a Checkpoint) -> Stored<'a, Read<'a>> {
        let (rows, cols, codec) = match self.shape {
            Shape::Vector { len } => (1, len, None),
            Shape::Matrix { rows, cols } => (rows, cols, Some(self.usage.codec(requested))),
        };
        let values = Read { checkpoint, source: &self.source };
        Stored { values, rows: rows as usize, cols: cols as usize, codec, importance: None, at: 0 }
    }
}

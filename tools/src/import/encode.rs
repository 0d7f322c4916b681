//! Writing an import as a bundle: choose codecs, then read, encode and write in file order, a few dozen megabytes at a time.
//!
//! Workers read and encode the matrices of one batch while another thread hashes and writes the batch before, so memory stays small
//! however large the checkpoint is, and neither processor nor disk waits for the other.

use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use hotset::bundle::{BundleWriter, FORMAT, Manifest, PADDING, Provenance, RecordLayout, TensorInfo};
use hotset::codec::{self, Codec, Layout, PANEL};

use super::{Dense, Import, Shape, Source, Usage};
use crate::checkpoint::{Checkpoint, Tokenizer};
use crate::failure::{Failure, Result};

/// Encoded bytes that are handed to the writer at once, unless a single entry is larger.
const BATCH: usize = 32 << 20;
/// Values that a worker reads at once.
const CHUNK: usize = 1 << 20;

/// How to write a bundle.
pub(crate) struct Options<'a> {
    pub(crate) target: &'a Path,
    pub(crate) codec: Codec,
    pub(crate) family: &'a str,
    /// Set from elsewhere to stop between two batches.
    pub(crate) stop: &'a AtomicBool,
    /// Told the bytes written with each entry.
    pub(crate) progress: &'a (dyn Fn(u64) + Sync),
}

/// Writes the bundle; nothing appears at the target unless everything succeeds. `expect` is told the bytes to come before work begins.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    import: Import,
    tokenizer: Option<Tokenizer>,
    options: &Options<'_>,
    expect: impl FnOnce(u64),
) -> Result<Manifest> {
    let Import { mut plan, dense, experts } = import;
    plan.pools.iter_mut().for_each(|p| p.codec = options.codec);
    let tensors = dense.iter().map(|(name, d)| (name.clone(), d.info(options.codec))).collect();
    let (json, text) = tokenizer.map(|t| (t.json, t.text)).unzip();
    let provenance = Provenance {
        name: checkpoint.name(),
        family: options.family.to_owned(),
        tool: format!("hotset {}", env!("CARGO_PKG_VERSION")),
        history: vec![format!("converted to {}", options.codec)],
    };
    let manifest =
        Manifest { format: FORMAT, plan, tensors, text, provenance, hashes: Default::default(), fingerprint: String::new() };
    let layouts: Option<Vec<_>> = manifest.plan.pools.iter().map(|p| RecordLayout::of(p, manifest.plan.width)).collect();
    let layouts = layouts.ok_or_else(|| Failure::new("an expert is too large to store"))?;
    let infos: Vec<TensorInfo> = manifest.tensors.values().copied().collect();

    let writer = BundleWriter::create(options.target, manifest, json.as_ref().map(Vec::len))?;
    expect(writer.entries().iter().map(|e| e.bytes as u64).sum());
    let names: Vec<_> = writer.entries().iter().filter(|e| e.name != PADDING).map(|e| (e.name.clone(), e.bytes)).collect();
    // The same order as the writer's: dense by name, tokenizer, records pool by pool.
    let dense = dense.values().zip(infos).map(|(d, info)| vec![Piece { source: &d.source, info, at: 0 }]);
    let records = experts.iter().zip(&layouts).flat_map(|(pool, layout)| pool.iter().map(|r| pieces(r, layout)));
    let mut contents: Vec<Content<'_>> = dense.map(Content::Pieces).collect();
    contents.extend(json.as_deref().map(Content::Bytes));
    contents.extend(records.map(Content::Pieces));

    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<(String, Vec<u8>)>>(1);
        let writing = scope.spawn(move || -> Result<BundleWriter> {
            let mut writer = writer;
            for (name, bytes) in receiver.into_iter().flatten() {
                writer.write(&name, &bytes)?;
                (options.progress)(bytes.len() as u64);
            }
            Ok(writer)
        });
        let encoded = encode(checkpoint, names, &contents, options.stop, &sender);
        drop(sender);
        // When writing failed, encoding merely noticed that nobody listens any more.
        let writer = writing.join().map_err(|_| Failure::new("writing the bundle stopped unexpectedly"))??;
        encoded?;
        Ok(writer.finish()?)
    })
}

impl Dense {
    fn info(&self, codec: Codec) -> TensorInfo {
        let Shape::Matrix { rows, cols } = self.shape else {
            let Shape::Vector { len } = self.shape else { unreachable!("the only other shape") };
            return TensorInfo::Vector { len };
        };
        let codec = match (self.usage, codec) {
            (Usage::Router, _) => Codec::F32,
            (Usage::Embedding, Codec::Q4) => Codec::Q8,
            (Usage::Embedding | Usage::Weight, codec) => codec,
        };
        TensorInfo::Matrix { rows, cols, codec }
    }
}

/// What an entry of the file holds.
enum Content<'a> {
    Bytes(&'a [u8]),
    Pieces(Vec<Piece<'a>>),
}

/// One matrix or vector within an entry.
struct Piece<'a> {
    source: &'a Source,
    info: TensorInfo,
    /// Offset in bytes from the start of the entry.
    at: usize,
}

fn pieces<'a>(sources: &'a [Source], layout: &RecordLayout) -> Vec<Piece<'a>> {
    let piece = |(source, &(_, l, at)): (&'a Source, &(_, Layout, usize))| {
        let (rows, cols) = (u32::try_from(l.rows).unwrap_or(u32::MAX), u32::try_from(l.cols).unwrap_or(u32::MAX));
        Piece { source, info: TensorInfo::Matrix { rows, cols, codec: l.codec }, at }
    };
    sources.iter().zip(&layout.matrices).map(piece).collect()
}

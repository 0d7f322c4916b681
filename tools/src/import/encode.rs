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
use hotset::codec::{Codec, Layout, PANEL, encode_panels};

use super::share::share;
use super::{Dense, Import, Shape, Source, Usage};
use crate::checkpoint::{Checkpoint, Tokenizer};
use crate::failure::{Failure, Result};

/// Encoded bytes that are handed to the writer at once, unless a single entry is larger.
const BATCH: usize = 32 << 20;
/// Values that a worker reads at once.
const CHUNK: usize = 1 << 20;

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
    let Import { mut plan, dense, mut experts } = import;
    share(checkpoint, &mut plan, &mut experts)?;
    let codec = options.codec.unwrap_or(DEFAULT);
    let mut history = format!("converted to {codec}");
    for (pool, records) in plan.pools.iter_mut().zip(&experts) {
        let published = records.iter().flatten().any(|s| matches!(s, Source::Mxfp4 { .. }));
        pool.codec = if published && options.codec.is_none() { Codec::Mxfp4 } else { codec };
    }
    if plan.pools.iter().any(|p| p.codec != codec) {
        history += ", experts kept in mxfp4";
    }
    let layouts: Option<Vec<_>> = plan.pools.iter().map(|p| RecordLayout::of(p, plan.width)).collect();
    let layouts = layouts.ok_or_else(|| Failure::new("an expert is too large to store"))?;
    let tensors = dense.iter().map(|(name, d)| (name.clone(), d.info(codec))).collect();
    let (json, text) = tokenizer.map(|t| (t.json, t.text)).unzip();
    let provenance = Provenance {
        name: checkpoint.name(),
        family: options.family.to_owned(),
        tool: format!("hotset {}", env!("CARGO_PKG_VERSION")),
        history: vec![history],
        origin: None,
    };
    let (hashes, fingerprint) = Default::default();
    let manifest = Manifest { format: FORMAT, plan, tensors, text, provenance, hashes, fingerprint };
    let writer = BundleWriter::create(options.target, manifest, json.as_ref().map(Vec::len))?;

    // The same order as the writer's: dense by name, tokenizer, records pool by pool.
    let dense = dense.values().map(|d| Content::Matrices(vec![d.stored(codec)]));
    let tokenizer = json.as_deref().map(Content::Bytes);
    let records = experts.iter().zip(&layouts).flat_map(|(pool, layout)| pool.iter().map(|r| Content::record(r, layout)));
    let contents = dense.chain(tokenizer).chain(records);
    let named = writer.entries().iter().filter(|e| e.name != PADDING).map(|e| (e.name.clone(), e.bytes));
    let entries = named.zip(contents).map(|((name, bytes), content)| Entry { name, bytes, content }).collect();

    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<(String, Vec<u8>)>>(1);
        let total = writer.entries().iter().map(|e| e.bytes as u64).sum();
        let writing = scope.spawn(move || -> Result<BundleWriter> {
            let (mut writer, mut written) = (writer, 0);
            for (name, bytes) in receiver.into_iter().flatten() {
                writer.write(&name, &bytes)?;
                written += bytes.len() as u64;
                (options.progress)(written, total);
            }
            Ok(writer)
        });
        let encoded = encode(checkpoint, entries, options.stop, sender);
        // A failed write ends the encoding too, which then has nothing of its own to report.
        let writer = writing.join().map_err(|_| Failure::new("the thread that writes the bundle died"))??;
        encoded?;
        Ok(writer.finish()?)
    })
}

impl Dense {
    /// Vectors stay f32; they are nothing beside the matrices.
    fn codec(&self, requested: Codec) -> Codec {
        match self.usage {
            // A wrong expert costs more than a wrong digit, and routers are small.
            Usage::Router => Codec::F32,
            // Every logit is read off the head directly: 8 bits instead of 4 halve the demo model's divergence from f32 for 3 % of its file.
            // Of an untied table one row is read for each token, so its size costs no time.
            Usage::Vocabulary if matches!(requested, Codec::Q4 | Codec::Mxfp4) => Codec::Q8,
            Usage::Vocabulary | Usage::Weight => requested,
        }
    }

    fn info(&self, requested: Codec) -> TensorInfo {
        match self.shape {
            Shape::Vector { len } => TensorInfo::Vector { len },
            Shape::Matrix { rows, cols } => TensorInfo::Matrix { rows, cols, codec: self.codec(requested) },
        }
    }

    fn stored(&self, requested: Codec) -> Stored<'_> {
        let (source, at) = (&self.source, 0);
        match self.shape {
            Shape::Vector { len } => Stored { source, rows: 1, cols: len as usize, codec: None, at },
            Shape::Matrix { rows, cols } => {
                Stored { source, rows: rows as usize, cols: cols as usize, codec: Some(self.codec(requested)), at }
            }
        }
    }
}

/// One entry of the file.
struct Entry<'a> {
    name: String,
    bytes: usize,
    content: Content<'a>,
}

enum Content<'a> {
    Bytes(&'a [u8]),
    Matrices(Vec<Stored<'a>>),
}

impl<'a> Content<'a> {
    fn record(sources: &'a [Source], layout: &RecordLayout) -> Content<'a> {
        let matrix = |&(_, l, at): &(_, Layout, usize)| (l.rows, l.cols, Some(l.codec), at);
        let bias = |((_, l, _), &at): (&(_, Layout, usize), &usize)| (1, l.rows, None, at);
        let places = layout.matrices.iter().map(matrix).chain(layout.matrices.iter().zip(&layout.biases).map(bias));
        let stored = |(source, (rows, cols, codec, at))| Stored { source, rows, cols, codec, at };
        Content::Matrices(sources.iter().zip(places).map(stored).collect())
    }
}

/// One matrix within an entry, or, without a codec, a plain vector.
struct Stored<'a> {
    source: &'a Source,
    rows: usize,
    cols: usize,
    codec: Option<Codec>,
    /// Bytes from the start of the entry.
    at: usize,
}

/// A few panels of a matrix: what one worker does at a time.
struct Job<'a> {
    source: &'a Source,
    rows: Range<usize>,
    cols: usize,
    codec: Option<Codec>,
    words: &'a mut [u8],
    scales: &'a mut [u8],
}

/// Encodes all entries in order and sends them off, batch by batch.
fn encode(checkpoint: &Checkpoint, entries: Vec<Entry<'_>>, stop: &AtomicBool, sender: SyncSender<Vec<(String, Vec<u8>)>>) -> Result<()> {
    let mut rest = &entries[..];
    while !rest.is_empty() {
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted; nothing was written"));
        }
        let mut bytes = 0;
        let fits = |e: &&Entry<'_>| {
            bytes += e.bytes;
            bytes <= BATCH
        };
        let (batch, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = later;
        let mut buffers: Vec<(String, Vec<u8>)> = batch.iter().map(|e| (e.name.clone(), vec![0; e.bytes])).collect();
        let mut jobs = Vec::new();
        for (entry, (_, buffer)) in batch.iter().zip(&mut buffers) {
            match &entry.content {
                Content::Bytes(bytes) => buffer.copy_from_slice(bytes),
                Content::Matrices(matrices) => split(matrices, buffer, &mut jobs),
            }
        }
        run(checkpoint, jobs)?;
        checkpoint.release();
        if sender.send(buffers).is_err() {
            return Ok(()); // the writer failed and says why
        }
    }
    Ok(())
}

/// Cuts an entry into jobs on whole panels.
fn split<'a>(matrices: &'a [Stored<'_>], buffer: &'a mut [u8], jobs: &mut Vec<Job<'a>>) {
    let (mut buffer, mut consumed) = (buffer, 0);
    for m in matrices {
        let &Stored { source, cols, codec, at, .. } = m;
        let (_, tail) = std::mem::take(&mut buffer).split_at_mut(at - consumed);
        let Some(layout) = codec.and_then(|c| Layout::new(c, m.rows, cols)) else {
            let (words, rest) = tail.split_at_mut(cols * 4);
            jobs.push(Job { source, rows: 0..1, cols, codec: None, words, scales: &mut [] });
            (buffer, consumed) = (rest, at + cols * 4);
            continue;
        };
        let (matrix, rest) = tail.split_at_mut(layout.bytes());
        (buffer, consumed) = (rest, at + layout.bytes());
        let (mut words, mut scales) = matrix.split_at_mut(layout.scales_at());
        let panels = (CHUNK / (cols * PANEL)).max(1);
        for first in (0..layout.panels()).step_by(panels) {
            let n = panels.min(layout.panels() - first);
            let rows = first * PANEL..((first + n) * PANEL).min(m.rows);
            let (w, later_words) = words.split_at_mut(n * layout.panel_bytes());
            let (s, later_scales) = scales.split_at_mut(n * layout.panel_scale_bytes());
            jobs.push(Job { source, rows, cols, codec, words: w, scales: s });
            (words, scales) = (later_words, later_scales);
        }
    }
}

/// Does all jobs on all cores; the first failure ends them.
fn run(checkpoint: &Checkpoint, jobs: Vec<Job<'_>>) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
    let queue = Mutex::new(Ok(jobs.into_iter()));
    let work = || {
        let mut values = Vec::new();
        loop {
            let next = match &mut *queue.lock().unwrap_or_else(PoisonError::into_inner) {
                Ok(jobs) => jobs.next(),
                Err(_) => None,
            };
            let Some(job) = next else { return };
            if let Err(failure) = job.run(checkpoint, &mut values) {
                *queue.lock().unwrap_or_else(PoisonError::into_inner) = Err(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..workers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    queue.into_inner().unwrap_or_else(PoisonError::into_inner).map(drop)
}

impl Job<'_> {
    fn run(self, checkpoint: &Checkpoint, values: &mut Vec<f32>) -> Result<()> {
        let Job { source, rows, cols, codec, words, scales } = self;
        values.resize(rows.len() * cols, 0.0);
        source.read(checkpoint, rows, cols, values)?;
        match codec {
            None => words.copy_from_slice(bytemuck::cast_slice(values)),
            Some(codec) => {
                if codec == Codec::F16 && values.iter().any(|v| v.abs() > half::f16::MAX.to_f32()) {
                    let name = source.tensor();
                    return Err(Failure::new(format!("tensor {name:?} holds values too large for f16; use --codec bf16 or f32")));
                }
                encode_panels(codec, cols, values, words, scales);
            }
        }
        Ok(())
    }
}

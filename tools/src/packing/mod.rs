//! Writing a bundle: read, encode and write in file order, a few dozen megabytes at a time.
//!
//! Workers read and encode the matrices of one batch while another thread hashes and writes the batch before, so memory stays small
//! however large the model is, and neither processor nor disk waits for the other.

mod usage;

use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use hotset::bundle::{BundleWriter, Manifest, PADDING, RecordLayout};
use hotset::codec::{Codec, Layout, PANEL, encode_panels};

use crate::failure::{Failure, Result};

pub(crate) use usage::Usage;

/// Encoded bytes that are handed to the writer at once, unless a single entry is larger.
const BATCH: usize = 32 << 20;
/// Values that a worker reads at once.
const CHUNK: usize = 1 << 20;

/// Where the values of a matrix, or of a vector, which has one row, come from.
pub(crate) trait Values: Sync {
    /// Reads rows `rows` to `out` (`rows.len() · cols` values, row-major).
    fn read(&self, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()>;

    /// What to call them in an error.
    fn name(&self) -> &str;
}

/// What goes into one entry of the file.
pub(crate) enum Content<'a, V> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Matrices and vectors.
    Values(Vec<Stored<'a, V>>),
}

/// One matrix within an entry, or, without a codec, a plain vector.
pub(crate) struct Stored<'a, V> {
    pub(crate) values: V,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) codec: Option<Codec>,
    /// What rounding errors in each column weigh, `[cols]`; all the same without.
    pub(crate) importance: Option<&'a [f32]>,
    /// Bytes from the start of the entry.
    pub(crate) at: usize,
}

impl<'a, V> Content<'a, V> {
    /// A record: its matrices in file order, then their biases, each with its importance.
    pub(crate) fn record(parts: impl IntoIterator<Item = (V, Option<&'a [f32]>)>, layout: &RecordLayout) -> Content<'a, V> {
        let matrix = |&(_, l, at): &(_, Layout, usize)| (l.rows, l.cols, Some(l.codec), at);
        let bias = |((_, l, _), &at): (&(_, Layout, usize), &usize)| (1, l.rows, None, at);
        let places = layout.matrices.iter().map(matrix).chain(layout.matrices.iter().zip(&layout.biases).map(bias));
        let stored = |((values, importance), (rows, cols, codec, at))| Stored { values, rows, cols, codec, importance, at };
        Content::Values(parts.into_iter().zip(places).map(stored).collect())
    }
}

/// How writing is watched and stopped.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// Set from elsewhere to stop between two batches.
    pub(crate) stop: &'a AtomicBool,
    /// Told how many bytes were written, and of how many, again and again.
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Called between batches: what was read so far is not needed any more.
    pub(crate) release: &'a dyn Fn(),
}

/// Writes the bundle; nothing appears at `target` unless everything succeeds. `contents` are in the order of the file: dense tensors by
/// name, `tokenizer` if there is one, records pool by pool.
pub(crate) fn write<V: Values>(
    target: &Path,
    manifest: Manifest,
    tokenizer: Option<&[u8]>,
    (dense, records): (Vec<Content<'_, V>>, Vec<Content<'_, V>>),
    watch: Watch<'_>,
) -> Result<Manifest> {
    let writer = BundleWriter::create(target, manifest, tokenizer.map(<[u8]>::len))?;
    let contents = dense.into_iter().chain(tokenizer.map(Content::Bytes)).chain(records);
    let named = writer.entries().iter().filter(|e| e.name != PADDING).map(|e| (e.name.clone(), e.bytes));
    let entries = named.zip(contents).map(|((name, bytes), content)| Entry { name, bytes, content }).collect();

    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<(String, Vec<u8>)>>(1);
        let total = writer.entries().iter().map(|e| e.bytes as u64).sum();
        let progress = watch.progress;
        let writing = scope.spawn(move || -> Result<BundleWriter> {
            let (mut writer, mut written) = (writer, 0);
            for (name, bytes) in receiver.into_iter().flatten() {
                writer.write(&name, &bytes)?;
                written += bytes.len() as u64;
                progress(written, total);
            }
            Ok(writer)
        });
        let encoded = encode(entries, watch, sender);
        // A failed write ends the encoding too, which then has nothing of its own to report.
        let writer = writing.join().map_err(|_| Failure::new("the thread that writes the bundle died"))??;
        encoded?;
        Ok(writer.finish()?)
    })
}

/// One entry of the file.
struct Entry<'a, V> {
    name: String,
    bytes: usize,
    content: Content<'a, V>,
}

/// A few panels of a matrix: what one worker does at a time.
struct Job<'a, V> {
    values: &'a V,
    rows: Range<usize>,
    cols: usize,
    codec: Option<Codec>,
    importance: Option<&'a [f32]>,
    words: &'a mut [u8],
    scales: &'a mut [u8],
}

/// Encodes all entries in order and sends them off, batch by batch.
fn encode<V: Values>(entries: Vec<Entry<'_, V>>, watch: Watch<'_>, sender: SyncSender<Vec<(String, Vec<u8>)>>) -> Result<()> {
    let mut rest = &entries[..];
    while !rest.is_empty() {
        if watch.stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted; nothing was written"));
        }
        let mut bytes = 0;
        let fits = |e: &&Entry<'_, V>| {
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
                Content::Values(matrices) => split(matrices, buffer, &mut jobs),
            }
        }
        run(jobs)?;
        (watch.release)();
        if sender.send(buffers).is_err() {
            return Ok(()); // the writer failed and says why
        }
    }
    Ok(())
}

/// Cuts an entry into jobs on whole panels.
fn split<'a, V>(matrices: &'a [Stored<'_, V>], buffer: &'a mut [u8], jobs: &mut Vec<Job<'a, V>>) {
    let (mut buffer, mut consumed) = (buffer, 0);
    for m in matrices {
        let &Stored { ref values, cols, codec, importance, at, .. } = m;
        let (_, tail) = std::mem::take(&mut buffer).split_at_mut(at - consumed);
        let Some(layout) = codec.and_then(|c| Layout::new(c, m.rows, cols)) else {
            let (words, rest) = tail.split_at_mut(cols * 4);
            jobs.push(Job { values, rows: 0..1, cols, codec: None, importance: None, words, scales: &mut [] });
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
            jobs.push(Job { values, rows, cols, codec, importance, words: w, scales: s });
            (words, scales) = (later_words, later_scales);
        }
    }
}

/// Does all jobs on all cores; the first failure ends them.
fn run<V: Values>(jobs: Vec<Job<'_, V>>) -> Result<()> {
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
            if let Err(failure) = job.run(&mut values) {
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

impl<V: Values> Job<'_, V> {
    fn run(self, buffer: &mut Vec<f32>) -> Result<()> {
        let Job { values, rows, cols, codec, importance, words, scales } = self;
        buffer.resize(rows.len() * cols, 0.0);
        values.read(rows, cols, buffer)?;
        match codec {
            None => words.copy_from_slice(bytemuck::cast_slice(buffer)),
            Some(codec) => {
                if codec == Codec::F16 && buffer.iter().any(|v| v.abs() > half::f16::MAX.to_f32()) {
                    let name = values.name();
                    return Err(Failure::new(format!("tensor {name:?} holds values too large for f16; use --codec bf16 or f32")));
                }
                encode_panels(codec, cols, buffer, importance, words, scales);
            }
        }
        Ok(())
    }
}

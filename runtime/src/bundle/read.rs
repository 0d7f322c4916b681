//! Reading a bundle: map it, validate it completely, then hand out slices.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use super::file::{Reading, Source};
use super::header::{Header, TensorHeader};
use super::write::Entry;
use super::{BLOCK, Manifest, RecordLayout, TOKENIZER, TensorInfo, write};
use crate::codec::Matrix;
use crate::error::{Error, Result};
use crate::plan::Plan;

/// Bytes that are read at once where a large part of the file is wanted: whole blocks.
const PIECE: usize = 1024 * BLOCK;

/// An open bundle: the mapped file and what is known about it.
pub struct Bundle {
    path: PathBuf,
    map: Arc<Mmap>,
    /// The file itself; `None` for a bundle that was in memory.
    source: Option<Arc<Source>>,
    /// A copy of everything between header and records, which begins at this byte of the file.
    held: Option<(usize, Arc<Mmap>)>,
    pub(super) manifest: Manifest,
    pub(super) dense: HashMap<String, Place>,
    /// The file of an adapter.
    pub(super) adapter: Option<Arc<Mmap>>,
    tokenizer: Option<Range<usize>>,
    pub(super) pools: Vec<PoolRegion>,
}

/// Where a dense tensor is.
#[derive(Clone)]
pub(super) enum Place {
    /// In the bundle's file.
    File(Range<usize>),
    /// In the adapter's.
    Adapter(Range<usize>),
}

/// Where the records of one pool are in the file.
#[derive(Clone)]
pub(super) struct PoolRegion {
    layout: RecordLayout,
    start: usize,
    /// Records in the file.
    records: u32,
    /// For each record of the plan the one in the file; absent where they are the same.
    pub(super) order: Option<Arc<[u32]>>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("path", &self.path).field("bytes", &self.map.len()).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Maps and validates the file.
    ///
    /// The mapping shows what is on disk: the file must not be changed or truncated while it is open. Writers replace bundles by
    /// renaming, which is safe.
    ///
    /// # Errors
    /// When the file cannot be opened or is not a complete, consistent bundle; the message names the wrong field.
    pub fn open(path: impl AsRef<Path>) -> Result<Bundle> {
        let path = path.as_ref();
        Bundle::of_file(File::open(path).map_err(Error::io("open", path))?, path)
    }

    /// Maps and validates a file that is open already; `path` is for messages, and, where it leads to that file, for reading it past the page
    /// cache. As with [`open`](Self::open), the file must not be changed while the bundle is open.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_file(file: File, path: impl AsRef<Path>) -> Result<Bundle> {
        let path = path.as_ref();
        if file.metadata().map_err(Error::io("open", path))?.is_dir() {
            return Err(Error::io("open", path)(std::io::ErrorKind::IsADirectory.into()));
        }
        // SAFETY: the map is read-only and private to this process; that nobody truncates the file while it is mapped is the documented
        // condition of this function, and our own writer never modifies a file in place.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let parsed = parse(&map).map_err(|reason| Error::Bundle { path: path.to_owned(), reason })?;
        let source = Some(Source::new(file, path));
        Ok(Bundle::new(path, map, source, parsed))
    }

    /// Validates and copies a whole bundle that is in memory: one that was embedded or downloaded, or a fuzzer's.
    ///
    /// # Errors
    /// When the bytes are not a complete, consistent bundle, or there is no memory for the copy.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle> {
        let path = Path::new("(memory)");
        let parsed = parse(bytes).map_err(|reason| Error::Bundle { path: path.to_owned(), reason })?;
        let mut map = MmapMut::map_anon(bytes.len()).map_err(Error::io("map", path))?;
        map.copy_from_slice(bytes);
        Ok(Bundle::new(path, map.make_read_only().map_err(Error::io("map", path))?, None, parsed))
    }

    fn new(path: &Path, map: Mmap, source: Option<Source>, parsed: Parsed) -> Bundle {
        let Parsed { manifest, dense, tokenizer, pools } = parsed;
        let dense = dense.into_iter().map(|(name, range)| (name, Place::File(range))).collect();
        Bundle {
            path: path.to_owned(),
            map: Arc::new(map),
            source: source.map(Arc::new),
            held: None,
            manifest,
            dense,
            adapter: None,
            tokenizer,
            pools,
        }
    }

    /// The same file once more, not mapped again.
    pub(super) fn clone_view(&self) -> Bundle {
        Bundle {
            path: self.path.clone(),
            map: self.map.clone(),
            source: self.source.clone(),
            held: self.held.clone(),
            manifest: self.manifest.clone(),
            dense: self.dense.clone(),
            adapter: self.adapter.clone(),
            tokenizer: self.tokenizer.clone(),
            pools: self.pools.clone(),
        }
    }

    /// This bundle with the copy that `other`, of the same file, [holds](Self::hold_dense).
    pub(crate) fn holding(&self, other: &Bundle) -> Bundle {
        Bundle { held: other.held.clone(), ..self.clone_view() }
    }

    /// Copies everything but the records to memory of its own, so that the system cannot take it back page by page and does not fail
    /// when the file shrinks.
    ///
    /// # Errors
    /// When there is no memory or the file cannot be read.
    pub fn hold_dense(&mut self) -> Result<()> {
        self.hold_dense_with(|_| Ok(()))
    }

    /// The same; `progress` is told of the bytes of each piece.
    pub(crate) fn hold_dense_with(&mut self, mut progress: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let in_file = |p: &Place| match p {
            Place::File(r) => Some(r.start),
            Place::Adapter(_) => None,
        };
        let starts = self.dense.values().filter_map(in_file).chain(self.tokenizer.iter().map(|r| r.start));
        let (first, end) = (starts.min().unwrap_or(0), self.pools.iter().map(|p| p.start).min().unwrap_or(self.map.len()));
        let (first, end) = (first / BLOCK * BLOCK, end.next_multiple_of(BLOCK).min(self.map.len()));
        let mut copy = MmapMut::map_anon((end - first).max(1)).map_err(Error::io("make room for", &self.path))?;
        for (piece, at) in copy[..end - first].chunks_mut(PIECE).zip((first..).step_by(PIECE)) {
            match &self.source {
                None => piece.copy_from_slice(&self.map[at..at + piece.len()]),
                Some(s) => s.read(at as u64, piece, true).map_err(Error::io("read", &self.path))?,
            }
            progress(piece.len() as u64)?;
        }
        self.held = Some((first, Arc::new(copy.make_read_only().map_err(Error::io("make room for", &self.path))?)));
        Ok(())
    }

    /// Bytes of the file outside the records.
    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        match &self.held {
            Some((first, copy)) => &copy[range.start - first..range.end - first],
            None => &self.map[range.clone()],
        }
    }

    /// Bytes of a dense tensor.
    pub(super) fn dense(&self, name: &str) -> Option<&[u8]> {
        match self.dense.get(name)? {
            Place::File(range) => Some(self.bytes(range)),
            Place::Adapter(range) => self.adapter.as_ref().and_then(|map| map.get(range.clone())),
        }
    }

    /// Reads a record into `to`, which is at least as long.
    ///
    /// # Errors
    /// When the file cannot be read or has become shorter.
    ///
    /// # Panics
    /// When the plan has no such pool or record, or `to` is too short.
    pub fn read_record(&self, pool: usize, record: u32, to: &mut [u8], reading: Reading) -> Result<()> {
        let range = self.record_range(pool, record);
        let to = &mut to[..range.len()];
        match &self.source {
            Some(s) if reading != Reading::Mapped => {
                s.read(range.start as u64, to, reading == Reading::Direct).map_err(Error::io("read an expert from", &self.path))
            }
            _ => {
                to.copy_from_slice(&self.map[range.clone()]);
                self.forget(range);
                Ok(())
            }
        }
    }

    /// Tells the system that these pages of the mapping are not needed any more.
    #[cfg(unix)]
    fn forget(&self, range: Range<usize>) {
        if self.source.is_some() {
            // SAFETY: the mapping is of a file and read-only: pages that are dropped are read again when they are touched. A system that
            // refuses only keeps them longer.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }

    #[cfg(not(unix))]
    fn forget(&self, _: Range<usize>) {}

    /// Gives back the memory of everything that was read through the mapping; reading it again is possible and merely slower.
    pub fn release(&self) {
        self.forget(0..self.map.len());
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Never true: an empty file is not a bundle.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Everything that is not weights.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the model computes.
    pub fn plan(&self) -> &Plan {
        &self.manifest.plan
    }

    /// The dense matrix `name`, which the plan names as such.
    ///
    /// # Errors
    /// When there is none.
    pub fn matrix(&self, name: &str) -> Result<Matrix<'_>> {
        let info = self.manifest.tensors.get(name).and_then(TensorInfo::layout);
        info.zip(self.dense(name)).and_then(|(layout, bytes)| Matrix::new(layout, bytes)).ok_or_else(|| self.missing(name))
    }

    /// The vector `name`, which the plan names as such.
    ///
    /// # Errors
    /// When there is none.
    pub fn vector(&self, name: &str) -> Result<&[f32]> {
        match (self.manifest.tensors.get(name), self.dense(name)) {
            (Some(&TensorInfo::Vector { len }), Some(bytes)) => {
                bytemuck::try_cast_slice(&bytes[..len as usize * 4]).map_err(|_| self.missing(name))
            }
            _ => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::Bundle { path: self.path.clone(), reason: format!("tensor {name:?} is missing") }
    }

    /// Layout of the records of pool `pool`.
    ///
    /// # Panics
    /// When the plan has no such pool.
    pub fn record_layout(&self, pool: usize) -> &RecordLayout {
        &self.pools[pool].layout
    }

    /// Record `record` of pool `pool`.
    ///
    /// # Panics
    /// When the plan has no such pool or record.
    pub fn record(&self, pool: usize, record: u32) -> &[u8] {
        &self.map[self.record_range(pool, record)]
    }

    /// Where that record is in the file, for readers that do not go through the mapping.
    ///
    /// # Panics
    /// When the plan has no such pool or record.
    pub fn record_range(&self, pool: usize, record: u32) -> Range<usize> {
        assert!(record < self.manifest.plan.pools[pool].records, "record {record} of pool {pool}");
        let p = &self.pools[pool];
        let record = p.order.as_ref().map_or(record, |order| order[record as usize]);
        let at = p.start + record as usize * p.layout.bytes;
        at..at + p.layout.bytes
    }

    /// Bytes of all records in the file, those included that a view leaves out.
    pub(super) fn file_record_bytes(&self) -> u64 {
        self.pools.iter().map(|p| u64::from(p.records) * p.layout.bytes as u64).sum()
    }

    /// The contents of `tokenizer.json`.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_ref().map(|r| self.bytes(r))
    }

    /// Reads the whole file and compares every region with its hash, and the plan and the hashes themselves with the fingerprint;
    /// `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// Names the first region that differs.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<()> {
        let damaged = |region: &str| Error::Bundle {
            path: self.path.clone(),
            reason: format!("region {region:?} does not match its hash; the file is damaged, get or convert it again"),
        };
        let entries = write::entries(&self.manifest, self.tokenizer.as_ref().map(Range::len)).map_err(|_| damaged("header"))?;
        if write::fingerprint(&self.manifest)? != self.manifest.fingerprint {
            return Err(damaged("plan"));
        }
        let mut at = self.map.len() - entries.iter().map(|e| e.bytes).sum::<usize>();
        let mut hashers: BTreeMap<&str, blake3::Hasher> = BTreeMap::new();
        for e in &entries {
            if let Some(region) = &e.region {
                hashers.entry(region).or_default().update(&self.map[at..at + e.bytes]);
            }
            at += e.bytes;
            progress(at as u64);
        }
        for (region, hasher) in hashers {
            if self.manifest.hashes.get(region).is_none_or(|h| *h != hasher.finalize().to_hex().as_str()) {
                return Err(damaged(region));
            }
        }
        Ok(())
    }
}

struct Parsed {
    manifest: Manifest,
    dense: HashMap<String, Range<usize>>,
    tokenizer: Option<Range<usize>>,
    pools: Vec<PoolRegion>,
}

/// Where the tensors of a file of `len` bytes are, whose header (its end, its tensors) must be exactly what `entries` imply.
pub(super) fn places(
    (end, mut tensors): (usize, BTreeMap<String, TensorHeader>),
    entries: Vec<Entry>,
    len: usize,
) -> std::result::Result<HashMap<String, Range<usize>>, String> {
    if tensors.len() != entries.len() {
        return Err(format!("header: {} tensors, the manifest implies {}", tensors.len(), entries.len()));
    }
    let (mut at, mut ranges) = (0, HashMap::new());
    for e in entries {
        let implied = e.header(at);
        match tensors.remove(&e.name) {
            Some(found) if found == implied => {}
            Some(found) => return Err(format!("header: {:?} is {found:?}, the manifest implies {implied:?}", e.name)),
            None => return Err(format!("header: {:?} is missing, the manifest implies {implied:?}", e.name)),
        }
        ranges.insert(e.name, end + at..end + at + e.bytes);
        at += e.bytes;
    }
    if len - end != at {
        return Err(format!("data: {} bytes, the header promises {at}; the file is incomplete or has a tail", len - end));
    }
    Ok(ranges)
}

/// Checks the whole structure of the file. The error is a sentence about what is wrong.
fn parse(bytes: &[u8]) -> std::result::Result<Parsed, String> {
    let Header { end, metadata, tensors } = Header::read(bytes)?;
    let Some(json) = metadata.get("hotset") else {
        return Err("header: no hotset manifest; a safetensors checkpoint must first go through `hotset convert`".into());
    };
    let manifest = Manifest::read(json)?;
    manifest.plan.validate(&manifest.tensors).map_err(|e| format!("plan: {e}"))?;
    let tokenizer_bytes = tensors.get(TOKENIZER).map(|t| t.shape[0]);
    if let Some(n) = tokenizer_bytes.filter(|&n| n > bytes.len()) {
        return Err(format!("{TOKENIZER}: {n} bytes, the file has {}", bytes.len()));
    }
    let ranges = places((end, tensors), write::entries(&manifest, tokenizer_bytes)?, bytes.len())?;

    let mut pools = Vec::new();
    for pool in &manifest.plan.pools {
        let layout = RecordLayout::of(pool, manifest.plan.width).ok_or("pools: a record is too large")?;
        let start = ranges[&format!("{}.0", pool.name)].start;
        if !start.is_multiple_of(BLOCK) {
            return Err(format!("pools: records of {:?} begin at {start}, not at a multiple of {BLOCK}", pool.name));
        }
        pools.push(PoolRegion { layout, start, records: pool.records, order: None });
    }
    let tokenizer = ranges.get(TOKENIZER).cloned().filter(|_| tokenizer_bytes.is_some());
    let dense = manifest.tensors.keys().map(|n| (n.clone(), ranges[n].clone())).collect();
    Ok(Parsed { manifest, dense, tokenizer, pools })
}

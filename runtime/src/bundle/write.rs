//! Writing a bundle: sizes first, data streamed in file order, hashes patched in, then one rename.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::header::{Dtype, METADATA, TensorHeader};
use super::{BLOCK, MAX_HEADER, MAX_TENSORS, Manifest, PADDING, RecordLayout, TOKENIZER, TensorInfo};
use crate::error::{Error, Result};
use crate::plan::Name;

/// Stands in for a hash that is not known yet; has the length of a real one.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name in the safetensors header.
    pub name: String,
    /// Length in bytes.
    pub bytes: usize,
    /// Region whose hash covers it; padding has none.
    pub region: Option<String>,
    /// What other safetensors readers take it for.
    dtype: Dtype,
}

/// Writes a bundle front to back. Nothing appears at the target path before [`finish`](BundleWriter::finish); a writer
/// that is dropped, or a process that dies, leaves at most a temporary file beside it.
pub struct BundleWriter {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
    manifest: Manifest,
    entries: Vec<Entry>,
    next: usize,
    header_len: usize,
    hashers: BTreeMap<String, blake3::Hasher>,
}

impl Entry {
    /// Bytes that are nothing but bytes to other readers.
    pub(crate) fn plain(name: &str, bytes: usize) -> Entry {
        Entry { name: name.into(), bytes, region: None, dtype: Dtype::U8 }
    }

    /// What the header says of this tensor when it begins at `at`.
    pub(super) fn header(&self, at: usize) -> TensorHeader {
        TensorHeader::new(self.dtype, at, self.bytes)
    }
}

impl BundleWriter {
    /// Plans the file for `manifest` (whose hashes and fingerprint are filled in later) and writes a provisional header.
    ///
    /// `tokenizer_bytes` is the length of the tokenizer that [`write`](Self::write) will be given.
    ///
    /// # Errors
    /// When the manifest is not valid or the directory of `target` cannot be written.
    pub fn create(target: &Path, mut manifest: Manifest, tokenizer_bytes: Option<usize>) -> Result<BundleWriter> {
        manifest.plan.validate(&manifest.tensors)?;
        let entries = entries(&manifest, tokenizer_bytes).map_err(Error::Input)?;
        manifest.hashes = entries.iter().filter_map(|e| Some((e.region.clone()?, NO_HASH.to_owned()))).collect();
        manifest.fingerprint = NO_HASH.to_owned();
        let hashers = manifest.hashes.keys().map(|r| (r.clone(), blake3::Hasher::new())).collect();
        let header = header(&manifest, &entries, None)?;
        let mut file = BufWriter::with_capacity(1 << 20, begin(target)?);
        file.write_all(&header).map_err(Error::io("write to", target))?;
        Ok(BundleWriter { file, target: target.to_owned(), manifest, entries, next: 0, header_len: header.len(), hashers })
    }

    /// The tensors that [`write`](Self::write) expects, in this order. Padding is written by itself.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// When the name or length is not that of the next entry, or the disk is full.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.skip_padding()?;
        let expected = self.entries.get(self.next);
        let Some(entry) = expected.filter(|e| e.name == name && e.bytes == data.len()) else {
            return Err(Error::Input(format!(
                "tensor {name} of {} bytes was written where {:?} is due",
                data.len(),
                expected.map(|e| (&e.name, e.bytes))
            )));
        };
        if let Some(hasher) = entry.region.as_ref().and_then(|r| self.hashers.get_mut(r)) {
            hasher.update(data);
        }
        self.file.write_all(data).map_err(Error::io("write to", &self.target))?;
        self.next += 1;
        Ok(())
    }

    fn skip_padding(&mut self) -> Result<()> {
        if let Some(e) = self.entries.get(self.next).filter(|e| e.name == PADDING) {
            self.file.write_all(&vec![0; e.bytes]).map_err(Error::io("write to", &self.target))?;
            self.next += 1;
        }
        Ok(())
    }

    /// Writes the final header, flushes everything to disk and moves the file to its place.
    ///
    /// # Errors
    /// When tensors are missing or the system refuses.
    pub fn finish(mut self) -> Result<Manifest> {
        self.skip_padding()?;
        if let Some(e) = self.entries.get(self.next) {
            return Err(Error::Input(format!("tensor {} was never written", e.name)));
        }
        for (region, hasher) in &self.hashers {
            self.manifest.hashes.insert(region.clone(), hasher.finalize().to_hex().to_string());
        }
        self.manifest.fingerprint = fingerprint(&self.manifest)?;
        let header = header(&self.manifest, &self.entries, Some(self.header_len))?;
        let at = &self.target;
        let io = || Error::io("write to", at);
        self.file.seek(SeekFrom::Start(0)).map_err(io())?;
        self.file.write_all(&header).map_err(io())?;
        place(self.file.into_inner().map_err(|e| io()(e.into_error()))?, at)?;
        Ok(self.manifest)
    }
}

/// A temporary file beside `target`.
pub(crate) fn begin(target: &Path) -> Result<NamedTempFile> {
    let dir = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".hotset-").suffix(".part").tempfile_in(dir).map_err(Error::io("write to", dir))
}

/// Flushes a file that is complete to disk and moves it to its place, for everybody to read.
pub(super) fn place(file: NamedTempFile, target: &Path) -> Result<()> {
    make_readable(file.as_file()).map_err(Error::io("write to", target))?;
    keep(file, target)
}

/// The same for a file that is its owner's alone.
pub(crate) fn keep(file: NamedTempFile, target: &Path) -> Result<()> {
    let io = || Error::io("write to", target);
    file.as_file().sync_all().map_err(io())?;
    file.persist(target).map_err(|e| io()(e.error))?;
    Ok(())
}

/// Temporary files are private to their user; a bundle is an ordinary file.
fn make_readable(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

/// blake3 over what identifies a model: plan, tensor table, and the hashes of all regions.
pub(super) fn fingerprint(m: &Manifest) -> Result<String> {
    let json = serde_json::to_vec(&(&m.plan, &m.tensors, &m.hashes)).map_err(|e| Error::Input(e.to_string()))?;
    Ok(blake3::hash(&json).to_hex().to_string())
}

/// The file's tensors in order. Readers compare their header with the same list.
///
/// # Errors
/// Names the tensor or pool that cannot be stored.
pub(super) fn entries(m: &Manifest, tokenizer_bytes: Option<usize>) -> std::result::Result<Vec<Entry>, String> {
    if m.text.is_some() != tokenizer_bytes.is_some() {
        return Err("text: tokenizer settings and tokenizer come together or not at all".into());
    }
    let records = m.plan.pools.iter().fold(0usize, |sum, p| sum.saturating_add(p.records as usize));
    let count = records.saturating_add(m.tensors.len());
    if count > MAX_TENSORS {
        return Err(format!("pools: {count} tensors and records; at most {MAX_TENSORS} are allowed"));
    }
    if let Some(name) = [METADATA, TOKENIZER, PADDING].into_iter().find(|&n| m.tensors.contains_key(n)) {
        return Err(format!("tensors.{name}: the name is reserved"));
    }
    let mut out = dense_entries(&m.tensors)?;
    if let Some(bytes) = tokenizer_bytes {
        out.push(Entry { name: TOKENIZER.into(), bytes, region: Some("tokenizer".into()), dtype: Dtype::U8 });
    }
    let end: usize = out.iter().map(|e| e.bytes).sum();
    if !end.is_multiple_of(BLOCK) {
        let bytes = end.next_multiple_of(BLOCK) - end;
        out.push(Entry { name: PADDING.into(), bytes, region: None, dtype: Dtype::U8 });
    }
    for pool in &m.plan.pools {
        let layout = RecordLayout::of(pool, m.plan.width).ok_or_else(|| format!("pools ({}): a record is too large", pool.name))?;
        let record =
            |i| Entry { name: format!("{}.{i}", pool.name), bytes: layout.bytes, region: Some(pool.name.clone()), dtype: Dtype::U8 };
        out.extend((0..pool.records).map(record));
    }
    Ok(out)
}

/// Dense tensors, in the order of their names.
///
/// # Errors
/// Names the tensor that cannot be stored.
pub(super) fn dense_entries(tensors: &BTreeMap<Name, TensorInfo>) -> std::result::Result<Vec<Entry>, String> {
    let entry = |(name, info): (&Name, &TensorInfo)| {
        let bytes = info.bytes().ok_or_else(|| format!("tensors.{name}: {info:?} is empty or too large"))?;
        let dtype = if info.layout().is_none() { Dtype::F32 } else { Dtype::U8 };
        Ok(Entry { name: name.clone(), bytes, region: Some("dense".into()), dtype })
    };
    tensors.iter().map(entry).collect()
}

/// Length prefix and JSON, padded with spaces to a whole number of blocks (or to `len` bytes, when given).
fn header(m: &Manifest, entries: &[Entry], len: Option<usize>) -> Result<Vec<u8>> {
    safetensors("hotset", &serde_json::to_string(m).map_err(|e| Error::Input(e.to_string()))?, entries, len)
}

/// The header of a file with these tensors, one after the other, and a text under `key` of its metadata.
pub(crate) fn safetensors(key: &str, text: &str, entries: &[Entry], len: Option<usize>) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert(METADATA.into(), json!({ key: text }));
    let mut at = 0usize;
    for e in entries {
        let value = serde_json::to_value(e.header(at)).map_err(|e| Error::Input(e.to_string()))?;
        if map.insert(e.name.clone(), value).is_some() {
            return Err(Error::Input(format!("two tensors are called {}", e.name)));
        }
        at += e.bytes;
    }
    let json = serde_json::to_vec(&Value::Object(map)).map_err(|e| Error::Input(e.to_string()))?;
    let total = len.unwrap_or((8 + json.len()).next_multiple_of(BLOCK));
    if total - 8 > MAX_HEADER {
        return Err(Error::Input(format!("the header would take {total} bytes; readers accept {MAX_HEADER}")));
    }
    if 8 + json.len() > total {
        return Err(Error::Input("the final header is longer than planned".into()));
    }
    let mut out = ((total - 8) as u64).to_le_bytes().to_vec();
    out.extend(json);
    out.resize(total, b' ');
    Ok(out)
}

//! Files to attack: a tiny valid bundle, and the means to take it apart and put it together wrongly.

use std::collections::BTreeMap;
use std::path::Path;

use hotset::bundle::{BLOCK, Bundle, BundleWriter, FORMAT, Manifest, Provenance};
use serde_json::Value;

use crate::support::{self, Random};

/// Contents of `tokenizer.json` in [`tiny`].
pub(crate) const TOKENIZER: &[u8] = br#"{"version":"1.0"}"#;

/// A manifest with something of everything. The text is the format: it must stay readable.
pub(crate) fn tiny_manifest() -> Manifest {
    serde_json::from_str(include_str!("tiny.json")).unwrap()
}

/// The tiny bundle's bytes.
pub(crate) fn tiny() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.hotset");
    write(&path, tiny_manifest(), Some(TOKENIZER), 1);
    std::fs::read(path).unwrap()
}

/// A manifest without text for a random plan.
pub(crate) fn random_manifest(model: support::Model) -> Manifest {
    let support::Model { plan, tensors, .. } = model;
    let provenance = Provenance::default();
    Manifest { format: FORMAT, plan, tensors, text: None, provenance, hashes: BTreeMap::new(), fingerprint: String::new() }
}

/// Writes a bundle of random bytes and returns what went into each tensor.
pub(crate) fn write(path: &Path, manifest: Manifest, tokenizer: Option<&[u8]>, seed: u64) -> BTreeMap<String, Vec<u8>> {
    let mut random = Random::new(seed);
    let mut written = BTreeMap::new();
    let mut writer = BundleWriter::create(path, manifest, tokenizer.map(<[u8]>::len)).unwrap();
    for entry in writer.entries().to_vec().into_iter().filter(|e| e.region.is_some()) {
        let bytes = match (entry.region.as_deref(), tokenizer) {
            (Some("tokenizer"), Some(bytes)) => bytes.to_vec(),
            _ => (0..entry.bytes).map(|_| random.next() as u8).collect(),
        };
        writer.write(&entry.name, &bytes).unwrap();
        written.insert(entry.name, bytes);
    }
    writer.finish().unwrap();
    written
}

/// Header, manifest and data of a file, as JSON to edit.
pub(crate) struct Parts {
    pub(crate) header: Value,
    pub(crate) manifest: Value,
    pub(crate) data: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(file: &[u8]) -> Parts {
        let end = header_end(file);
        let mut header: Value = serde_json::from_slice(&file[8..end]).unwrap();
        let manifest = header["__metadata__"]["hotset"].take();
        Parts { header, manifest: serde_json::from_str(manifest.as_str().unwrap()).unwrap(), data: file[end..].to_vec() }
    }

    /// The file with `raw` (any text, JSON or not) in the place of the manifest's value at `pointer`.
    pub(crate) fn with_manifest(mut self, pointer: &str, raw: &str) -> Vec<u8> {
        let text = substitute(&mut self.manifest, pointer, raw);
        self.header["__metadata__"]["hotset"] = text.into();
        assemble(&self.header.to_string(), &self.data)
    }

    /// The file with `raw` in the place of the header's value at `pointer`.
    pub(crate) fn with_header(mut self, pointer: &str, raw: &str) -> Vec<u8> {
        self.header["__metadata__"]["hotset"] = self.manifest.to_string().into();
        let text = substitute(&mut self.header, pointer, raw);
        assemble(&text, &self.data)
    }

    /// The header's text, unchanged.
    pub(crate) fn header_text(mut self) -> String {
        self.header["__metadata__"]["hotset"] = self.manifest.to_string().into();
        self.header.to_string()
    }
}

/// Replaces the value at `pointer`, which may be a new key of an object, and returns the text of the whole.
fn substitute(whole: &mut Value, pointer: &str, raw: &str) -> String {
    const MARK: &str = "\u{1}here\u{1}";
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_else(|| panic!("{pointer:?} is no pointer"));
    match whole.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent:?}")) {
        Value::Object(map) => drop(map.insert(key.into(), MARK.into())),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = MARK.into(),
        other => panic!("{parent:?} is {other}"),
    }
    whole.to_string().replace(&Value::from(MARK).to_string(), raw)
}

/// Length prefix, header text padded to a block, data.
pub(crate) fn assemble(header: &str, data: &[u8]) -> Vec<u8> {
    let end = (8 + header.len()).next_multiple_of(BLOCK);
    let mut file = ((end - 8) as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(end, b' ');
    file.extend(data);
    file
}

/// Where the data begins.
pub(crate) fn header_end(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

/// The reason a file is refused.
#[track_caller]
pub(crate) fn refusal(file: &[u8]) -> String {
    match Bundle::from_bytes(file) {
        Ok(_) => panic!("the file was accepted"),
        Err(e) => e.to_string(),
    }
}

/// Touches every byte that the bundle hands out.
pub(crate) fn use_everything(bundle: &Bundle) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
    let mut total = sum(bundle.tokenizer().unwrap_or_default());
    for (name, info) in &bundle.manifest().tensors {
        match info.layout() {
            Some(layout) => {
                let matrix = bundle.matrix(name).unwrap();
                let mut row = vec![0.0; layout.cols];
                (0..layout.rows).for_each(|r| matrix.row(r, &mut row));
                total += (0..layout.panels()).map(|p| sum(matrix.words(p)) + sum(matrix.scales(p))).sum::<u64>();
            }
            None => total += sum(bytemuck::cast_slice(bundle.vector(name).unwrap())),
        }
    }
    for (i, pool) in bundle.plan().pools.iter().enumerate() {
        total += (0..pool.experts()).filter_map(|id| pool.record_of(id)).map(|r| sum(bundle.record(i, r))).sum::<u64>();
    }
    total
}

//! What both targets share: a valid file to start from, and the use of whatever opens.

use hotset::bundle::{Bundle, BundleWriter, Manifest};

/// Contents of the tokenizer.
const TOKENIZER: &[u8] = b"{}";

/// A small valid bundle with something of everything, all weights zero.
pub fn tiny() -> Vec<u8> {
    let manifest: Manifest = serde_json::from_str(include_str!("../../tests/bundle/tiny.json")).expect("the tests read it");
    let dir = tempfile::tempdir().expect("a place for files");
    let path = dir.path().join("tiny.hotset");
    let mut writer = BundleWriter::create(&path, manifest, Some(TOKENIZER.len())).expect("the manifest is valid");
    for entry in writer.entries().to_vec().iter().filter(|e| e.region.is_some()) {
        let bytes = if entry.bytes == TOKENIZER.len() { TOKENIZER.to_vec() } else { vec![0; entry.bytes] };
        writer.write(&entry.name, &bytes).expect("in order");
    }
    writer.finish().expect("complete");
    std::fs::read(&path).expect("just written")
}

/// Where the data of a file begins.
pub fn header_end(file: &[u8]) -> usize {
    file.first_chunk().map_or(0, |n| 8 + u64::from_le_bytes(*n) as usize)
}

/// Opens a file and touches every byte of it: whatever opens must be usable without a check.
pub fn open_and_use(file: &[u8]) {
    let Ok(bundle) = Bundle::from_bytes(file) else { return };
    for (name, info) in &bundle.manifest().tensors {
        match info.layout() {
            Some(layout) => {
                let matrix = bundle.matrix(name).expect("an open bundle has its matrices");
                let mut row = vec![0.0; layout.cols];
                (0..layout.rows).for_each(|r| matrix.row(r, &mut row));
            }
            None => drop(bundle.vector(name).expect("an open bundle has its vectors").to_vec()),
        }
    }
    for (i, pool) in bundle.plan().pools.iter().enumerate() {
        for id in 0..pool.experts() {
            if let Some(record) = pool.record_of(id) {
                assert_eq!(bundle.record(i, record).len(), bundle.record_layout(i).bytes);
            }
        }
    }
    let _ = bundle.verify(|_| ());
}

//! The writer: all or nothing, in order, and the same bytes every time.

use std::path::Path;

use hotset::bundle::{Bundle, BundleWriter, MAX_HEADER, Manifest, TensorInfo};
use hotset::plan::Pool;
use hotset::{Error, Result};

use crate::fixture::{TOKENIZER, tiny, tiny_manifest, write};

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Writes zeros everywhere.
fn write_zeros(path: &Path, manifest: Manifest) -> Result<()> {
    let mut writer = BundleWriter::create(path, manifest, Some(TOKENIZER.len()))?;
    for entry in writer.entries().to_vec().iter().filter(|e| e.region.is_some()) {
        writer.write(&entry.name, &vec![0; entry.bytes])?;
    }
    writer.finish().map(drop)
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.hotset");
    let mut writer = BundleWriter::create(&path, tiny_manifest(), Some(TOKENIZER.len())).unwrap();
    let first = writer.entries()[0].clone();
    writer.write(&first.name, &vec![0; first.bytes]).unwrap();
    assert!(!path.exists());
    assert_eq!(files(dir.path()), 1, "a temporary file beside the target");
    drop(writer);
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn an_unfinished_file_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.hotset");
    std::fs::write(&path, tiny()).unwrap();
    let writer = BundleWriter::create(&path, tiny_manifest(), Some(TOKENIZER.len())).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(&error, Error::Input(m) if m.contains("never written")), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), tiny());
    assert_eq!(files(dir.path()), 1);
}

/// Replacing is a rename: whoever has the old file open keeps it.
#[test]
fn a_new_file_leaves_readers_of_the_old_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.hotset");
    write(&path, tiny_manifest(), Some(TOKENIZER), 1);
    let old = Bundle::open(&path).unwrap();
    write(&path, tiny_manifest(), Some(TOKENIZER), 2);
    let new = Bundle::open(&path).unwrap();
    old.verify(|_| ()).unwrap();
    new.verify(|_| ()).unwrap();
    assert_ne!(old.record(0, 0), new.record(0, 0));
    assert_ne!(old.manifest().fingerprint, new.manifest().fingerprint);
}

#[test]
fn the_same_content_gives_the_same_file() {
    assert_eq!(tiny(), tiny());
}

#[test]
fn tensors_must_come_in_order_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = BundleWriter::create(&dir.path().join("a.hotset"), tiny_manifest(), Some(TOKENIZER.len())).unwrap();
    let entries = writer.entries().to_vec();
    let mut refused = |name: &str, bytes: usize| {
        let error = writer.write(name, &vec![0; bytes]).unwrap_err();
        assert!(matches!(&error, Error::Input(m) if m.contains(name) && m.contains(&entries[0].name)), "{error}");
    };
    refused(&entries[1].name, entries[1].bytes);
    refused(&entries[0].name, entries[0].bytes - 1);
    refused(&entries[0].name, entries[0].bytes + 1);
    refused("unheard-of", 4);
    // A refusal changes nothing: the right tensor is still due.
    writer.write(&entries[0].name, &vec![0; entries[0].bytes]).unwrap();
}

#[test]
fn manifests_that_no_reader_would_accept_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |reason: &str, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = tiny_manifest();
        change(&mut manifest);
        let error = BundleWriter::create(&dir.path().join("a.hotset"), manifest, Some(TOKENIZER.len())).map(drop).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(files(dir.path()), 0);
    };
    refused("width", &|m| m.plan.width = 0);
    refused("two tensors are called experts.0", &|m| m.plan.pools.push(m.plan.pools[0].clone()));
    refused("at most 262144 are allowed", &|m| m.plan.pools.extend(vec![Pool { records: 1 << 16, ..m.plan.pools[0].clone() }; 5]));
    refused("readers accept", &|m| m.provenance.name = "x".repeat(MAX_HEADER));
    refused("text", &|m| m.text = None);
    for name in ["tokenizer.json", "hotset.padding", "__metadata__"] {
        refused("the name is reserved", &|m| m.tensors.extend([(name.into(), TensorInfo::Vector { len: 4 })]));
    }
    refused("two tensors are called experts.1", &|m| m.tensors.extend([("experts.1".into(), TensorInfo::Vector { len: 4 })]));
}

#[test]
fn places_that_cannot_be_written_give_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_zeros(&dir.path().join("absent/a.hotset"), tiny_manifest()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("absent"), "{error}");
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let error = write_zeros(&taken, tiny_manifest()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("taken"), "{error}");
    assert_eq!(files(dir.path()), 1);
}

/// Runs the next test in a process whose files may not grow, which is what a full disk looks like.
#[test]
#[cfg(unix)]
fn a_full_disk_gives_an_error_and_leaves_no_file() {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 40; trap '' XFSZ; exec \"$0\" --ignored --exact writer::with_little_room"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[cfg(unix)]
#[ignore = "a_full_disk_gives_an_error_and_leaves_no_file runs it in a process with a limit"]
fn with_little_room() {
    // A small file fails when its buffer is flushed at the end, a large one in the middle.
    for records in [2, 100] {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = tiny_manifest();
        manifest.plan.pools[0].records = records;
        let error = write_zeros(&dir.path().join("a.hotset"), manifest).unwrap_err();
        assert!(matches!(error, Error::Io { action: "write to", .. }), "{records} records: {error}");
        assert_eq!(files(dir.path()), 0, "{records} records");
    }
}

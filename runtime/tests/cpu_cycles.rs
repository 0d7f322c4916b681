//! A thousand times open, talk and close: nothing stays behind. In a program of its own, because it measures the whole process.

#![cfg(feature = "cpu")]
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::cpu::{CpuModel, CpuPaging};
use hotset::model::{Model, RunOptions, Want};

/// Resident kibibytes, threads and open files of this process.
fn usage() -> (u64, usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (line.trim().trim_end_matches(" kB").parse().unwrap(), count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn opening_and_closing_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    drop(support::bundle(dir.path(), 3, Codec::Q8));
    let path = dir.path().join("3.hotset");
    let cycle = || {
        let mut bundle = Bundle::open(&path).unwrap();
        bundle.hold_dense().unwrap();
        let paging = CpuPaging { budget: 1 << 30, ..CpuPaging::default() };
        let model = CpuModel::paged(Arc::new(bundle), Some(2), &paging).unwrap();
        for _ in 0..2 {
            let mut run = model.start(RunOptions::new(64)).unwrap();
            run.forward(&[1, 2, 3], Want::Nothing).unwrap();
        }
    };
    // The allocator's habits take a while to settle.
    (0..100).for_each(|_| cycle());
    let before = usage();
    (0..1000).for_each(|_| cycle());
    let after = usage();
    assert!(after.0 <= before.0 + 2048, "{} KiB became {} KiB", before.0, after.0);
    assert_eq!((after.1, after.2), (before.1, before.2), "threads and files");
}

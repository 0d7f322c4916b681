//! Reading parts of a bundle without its mapping: positioned reads, past the page cache where the system allows it.

use std::fs::File;
use std::io;
use std::path::Path;

use super::BLOCK;

/// How records are brought from the file.
///
/// Measured on the project's development machine (a virtual disk, records of 3.4 MiB, `hotset bench --ram`), direct reads were fastest and
/// left the page cache to others; see the README for figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// Positioned reads past the page cache where the file system can, else [`Buffered`](Reading::Buffered).
    #[default]
    Direct,
    /// Positioned reads through the page cache.
    Buffered,
    /// Copies out of the mapping, whose pages the system brings one fault at a time.
    Mapped,
}

impl std::str::FromStr for Reading {
    type Err = String;

    fn from_str(s: &str) -> Result<Reading, String> {
        match s {
            "direct" => Ok(Reading::Direct),
            "buffered" => Ok(Reading::Buffered),
            "mapped" => Ok(Reading::Mapped),
            _ => Err(format!("there is no way of reading {s:?}, only direct, buffered, mapped")),
        }
    }
}

/// An open bundle file, and once more past the page cache where that is possible.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    direct: Option<File>,
}

impl Source {
    pub(super) fn new(file: File, path: &Path) -> Source {
        let direct = direct(path).filter(|d| same(d, &file));
        Source { file, direct }
    }

    /// Fills `to` from byte `at` on. Direct reads need both to be whole blocks; memory of whole pages is aligned well enough.
    pub(super) fn read(&self, at: u64, to: &mut [u8], direct: bool) -> io::Result<()> {
        let whole = at.is_multiple_of(BLOCK as u64) && to.len().is_multiple_of(BLOCK);
        match self.direct.as_ref().filter(|_| direct && whole) {
            None => read_at(&self.file, at, to),
            // Some file systems accept the flag and then refuse to read, some devices have memory that disks cannot write to by themselves,
            // and a disk that fails fails twice.
            Some(file) => read_at(file, at, to).or_else(|_| read_at(&self.file, at, to)),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn direct(_: &Path) -> Option<File> {
    None
}

/// Whether both are the same file: the path may lead to another one by now.
#[cfg(unix)]
fn same(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |f: &File| f.metadata().ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some() && id(a) == id(b)
}

#[cfg(not(unix))]
fn same(_: &File, _: &File) -> bool {
    false
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, to: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut at: u64, mut to: &mut [u8]) -> io::Result<()> {
    while !to.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, to, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (at, to) = (at + n as u64, &mut to[n..]),
        }
    }
    Ok(())
}

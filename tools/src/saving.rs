//! Files that appear complete or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use hotset::{Error, Result};
use tempfile::NamedTempFile;

/// A file on its way to its place. Dropped before the end, it leaves nothing.
pub(crate) struct Saving {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl Saving {
    /// Makes sure that a file can be written beside `target`.
    pub(crate) fn begin(target: &Path) -> Result<Saving> {
        let dir = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new().prefix(".hotset-").suffix(".part").tempfile_in(dir);
        let temporary = temporary.map_err(|source| Error::Io { action: "write to", path: dir.to_owned(), source })?;
        Ok(Saving { temporary, target: target.to_owned() })
    }

    /// Writes `contents` and moves the file to its place.
    pub(crate) fn finish(mut self, contents: &[u8]) -> Result<()> {
        let failed = |source| Error::Io { action: "write to", path: self.target.clone(), source };
        self.temporary.write_all(contents).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary files are private to their user; this becomes an ordinary one.
            self.temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
        }
        self.temporary.persist(&self.target).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

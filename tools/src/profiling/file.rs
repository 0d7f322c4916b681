//! Profiles in files.

use std::path::Path;

use hotset::profile::Profile;

use crate::failure::{Failure, Result};
use crate::saving::Saving;

/// The profile at `path`.
///
/// # Errors
/// When the file cannot be read or is no profile; the message names it.
pub(crate) fn load(path: &Path) -> Result<Profile> {
    let bytes = std::fs::read(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    Profile::read(&String::from_utf8_lossy(&bytes)).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

/// Writes a profile; it appears complete or not at all.
pub(crate) fn save(profile: &Profile, path: &Path) -> Result<()> {
    write(path, profile.to_json()?.as_bytes())
}

pub(super) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    Ok(Saving::begin(path)?.finish(contents)?)
}

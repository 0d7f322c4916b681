//! The checkpoint folder: it appears whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::Stored;
use crate::checkpoint::Checkpoint;
use crate::failure::{Failure, Result};

/// What turns text into tokens and back, copied as it is.
const TEXT_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
];

/// A folder on its way to its place. Dropped before the end, it leaves nothing.
pub(crate) struct Folder {
    temporary: TempDir,
    target: PathBuf,
}

impl Folder {
    /// Makes sure that the folder `target` can be written and does not exist yet.
    pub(crate) fn begin(target: &Path) -> Result<Folder> {
        if target.symlink_metadata().is_ok() {
            return Err(Failure::new(format!("{} exists already; name another folder, or remove it", target.display())));
        }
        let parent = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".hotset-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any folder, not as a secret one; the system's mask still counts.
            builder.permissions(std::fs::Permissions::from_mode(0o777));
        }
        let temporary = builder.tempdir_in(parent);
        let temporary = temporary.map_err(|e| Failure::new(format!("cannot write to {}: {e}", parent.display())))?;
        Ok(Folder { temporary, target: target.to_owned() })
    }

    /// Writes the checkpoint and moves the folder to its place. `tensors`: everything that it holds, by name.
    pub(crate) fn finish(self, source: &Checkpoint, config: &Map<String, Value>, tensors: BTreeMap<String, Stored<'_>>) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(format!("cannot write to {}: {e}", self.target.display()));
        let folder = self.temporary.path();
        std::fs::write(folder.join("config.json"), serde_json::to_string_pretty(config)?).map_err(|e| failed(&e))?;
        for name in TEXT_FILES {
            let from = source.folder().join(name);
            if from.is_file() {
                // The contents, not a source's being read-only.
                let contents = std::fs::read(&from).map_err(|e| Failure::new(format!("cannot read {}: {e}", from.display())))?;
                std::fs::write(folder.join(name), contents).map_err(|e| failed(&e))?;
            }
        }
        tensors.iter().try_for_each(|(name, tensor)| tensor.check(name))?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &folder.join("model.safetensors")).map_err(|e| failed(&e))?;
        std::fs::rename(folder, &self.target).map_err(|e| failed(&e))?;
        // It has moved: there is nothing left to remove.
        let _ = self.temporary.keep();
        Ok(())
    }
}

//! The texts that kernels are made of, one behind the other, so that a variant is a few ranges of one text. Used by the build script only.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// All files under `wgsl`.
pub(crate) struct Sources {
    pub(crate) text: String,
    /// Where each file is: `attend`, `shared/latch`.
    files: BTreeMap<String, Range<usize>>,
}

impl Sources {
    /// Reads them; the error names the file.
    pub(crate) fn read() -> Result<Sources, String> {
        let mut sources = Sources { text: String::new(), files: BTreeMap::new() };
        for (folder, prefix) in [("wgsl", ""), ("wgsl/shared", "shared/")] {
            let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|e| format!("{folder}: {e}"))?;
            let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(|p| p.is_file()).collect();
            paths.sort();
            for path in paths {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                sources.add(format!("{prefix}{name}"), &path)?;
            }
        }
        Ok(sources)
    }

    fn add(&mut self, name: String, path: &Path) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let start = self.text.len();
        self.text += &text;
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
        self.files.insert(name, start..self.text.len());
        Ok(())
    }

    /// The text of a file.
    pub(crate) fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(|range| &self.text[range.clone()])
    }

    /// Where `lines`, which are slices of the text, are in it: first byte and end of each run of neighbours.
    pub(crate) fn parts(&self, lines: &[&str]) -> Vec<(usize, usize)> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for line in lines {
            let start = line.as_ptr().addr() - self.text.as_ptr().addr();
            match parts.last_mut() {
                Some((_, end)) if *end == start => *end += line.len(),
                _ => parts.push((start, start + line.len())),
            }
        }
        parts
    }
}

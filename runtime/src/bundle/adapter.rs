//! Adapter files: what a session adds to a bundle, in a small safetensors file beside it.
//!
//! `__metadata__["hotset_adapter"]` says what is added, as data; the tensors are stored as a bundle's dense tensors are.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::header::{self, Header, METADATA};
use super::read::{Bundle, Place, places};
use super::write::{begin, dense_entries, place, safetensors};
use super::{MAX_HEADER, TensorInfo};
use crate::codec::{Codec, encode};
use crate::error::{Error, Result};
use crate::plan::{self, Name};

/// Version of adapter files.
const FORMAT: u32 = 1;
/// Where the header holds an [`About`].
const KEY: &str = "hotset_adapter";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    adapter: plan::Adapter,
    tensors: BTreeMap<Name, TensorInfo>,
}

/// An open adapter file: low-rank experts for the sessions of a bundle, whose own file stays as it is. Clones are the same adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    about: Arc<About>,
    map: Arc<Mmap>,
    places: Arc<HashMap<Name, Range<usize>>>,
}

impl PartialEq for Adapter {
    fn eq(&self, other: &Adapter) -> bool {
        self.about == other.about && self.map[..] == other.map[..]
    }
}

impl Adapter {
    /// Maps and checks an adapter file. Whether it fits a bundle shows when a session starts with it.
    ///
    /// # Errors
    /// When the file cannot be opened or is not a complete adapter.
    pub fn open(path: impl AsRef<Path>) -> Result<Adapter> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: as for bundles, the map is read-only and nobody may truncate the file while it is mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let (about, places) = parse(&map).map_err(|reason| Error::Bundle { path: path.to_owned(), reason })?;
        Ok(Adapter { about: Arc::new(about), map: Arc::new(map), places: Arc::new(places) })
    }

    /// Writes an adapter file: `tensors` are row-major with their shapes, a vector having no columns. Nothing appears at `path` before all
    /// of it is there.
    ///
    /// # Errors
    /// When a tensor cannot be stored or the disk refuses.
    pub fn write(path: &Path, adapter: plan::Adapter, tensors: &BTreeMap<Name, (u32, Option<u32>, Vec<f32>)>) -> Result<()> {
        let info = |&(rows, cols, _): &(u32, Option<u32>, Vec<f32>)| match cols {
            None => TensorInfo::Vector { len: rows },
            Some(cols) => TensorInfo::Matrix { rows, cols, codec: Codec::F32 },
        };
        let infos: BTreeMap<Name, TensorInfo> = tensors.iter().map(|(n, t)| (n.clone(), info(t))).collect();
        let entries = dense_entries(&infos).map_err(Error::Input)?;
        let about = About { format: FORMAT, adapter, tensors: infos };
        let about_json = serde_json::to_string(&about).map_err(|e| Error::Input(e.to_string()))?;
        let header = safetensors(KEY, &about_json, &entries, None)?;

        let mut file = begin(path)?;
        file.write_all(&header).map_err(Error::io("write to", path))?;
        for entry in &entries {
            let mut bytes = vec![0; entry.bytes];
            if let (Some(info), Some((_, _, values))) = (about.tensors.get(&entry.name), tensors.get(&entry.name)) {
                match info.layout() {
                    Some(layout) if values.len() == layout.rows * layout.cols => encode(layout, values, &mut bytes),
                    None if values.len() * 4 <= bytes.len() => bytes[..values.len() * 4].copy_from_slice(bytemuck::cast_slice(values)),
                    _ => return Err(Error::Input(format!("tensor {} has {} values, which is not its shape", entry.name, values.len()))),
                }
            }
            file.write_all(&bytes).map_err(Error::io("write to", path))?;
        }
        place(file, path)
    }

    /// What is added.
    pub fn adapter(&self) -> &plan::Adapter {
        &self.about.adapter
    }
}

/// Checks the whole structure of the file. The error is a sentence about what is wrong.
fn parse(bytes: &[u8]) -> std::result::Result<(About, HashMap<Name, Range<usize>>), String> {
    let Header { end, metadata, tensors } = Header::read(bytes)?;
    let Some(json) = metadata.get(KEY).filter(|j| j.len() <= MAX_HEADER) else {
        return Err("header: there is no adapter in this file".into());
    };
    let about: About = header::parse(json).map_err(|e| format!("{METADATA}.{KEY}: {e}"))?;
    if about.format != FORMAT {
        return Err(format!("{METADATA}.{KEY}.format: {} is not {FORMAT}, the only one this reader knows", about.format));
    }
    let places = places((end, tensors), dense_entries(&about.tensors)?, bytes.len())?;
    Ok((about, places))
}

impl Bundle {
    /// This bundle with an adapter: the same mapped file, plan and tensors, and what the adapter adds.
    ///
    /// # Errors
    /// When the adapter does not fit; the message names what.
    pub fn adapted(&self, adapter: &Adapter) -> Result<Bundle> {
        let mut bundle = self.clone_view();
        for (name, info) in &adapter.about.tensors {
            if bundle.manifest.tensors.insert(name.clone(), *info).is_some() {
                return Err(Error::Input(format!("the adapter has a tensor {name:?} of its own, but the bundle has one of that name")));
            }
            bundle.dense.insert(name.clone(), Place::Adapter(adapter.places[name].clone()));
        }
        bundle.adapter = Some(adapter.map.clone());
        bundle.manifest.plan.adapter = Some(adapter.about.adapter.clone());
        let valid = bundle.manifest.plan.validate(&bundle.manifest.tensors);
        valid.map_err(|e| Error::Input(format!("this adapter is not for this bundle: {e}")))?;
        Ok(bundle)
    }
}

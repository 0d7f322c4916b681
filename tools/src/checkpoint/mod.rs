//! A checkpoint folder as its authors published it: `config.json`, weights in safetensors or PyTorch files, and what turns text into
//! tokens. Files are mapped; a tensor's values are read when they are asked for.

#[cfg(test)]
mod hostile;
mod pickle;
mod tensor;
mod text;
mod torch;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

pub(crate) use tensor::{Tensor, View};
pub(crate) use text::Tokenizer;

/// Every tensor of a checkpoint, by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// An opened checkpoint folder.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    config: Map<String, Value>,
    maps: Vec<Mmap>,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens the folder `path`, or the folder that holds the `config.json` that `path` names.
    pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
        let (folder, config) = configuration(path)?;
        Checkpoint::read_weights(folder, config, "model.safetensors", "pytorch_model.bin")
    }

    /// Opens a folder with a configuration, of which a checkpoint is to be made. It holds no weights, or none that count.
    pub(crate) fn blank(path: &Path) -> Result<Checkpoint> {
        let (folder, config) = configuration(path)?;
        Ok(Checkpoint { folder: folder.to_owned(), config, maps: Vec::new(), tensors: Tensors::new() })
    }

    /// Opens the folder of an adapter, which has `adapter_config.json` in place of `config.json`.
    pub(crate) fn adapter(folder: &Path) -> Result<Checkpoint> {
        let config_path = folder.join("adapter_config.json");
        let Some(config) = json(&config_path)? else {
            return Err(Failure::new(format!("{} is missing; is {} an adapter's folder?", config_path.display(), folder.display())));
        };
        Checkpoint::read_weights(folder, config, "adapter_model.safetensors", "adapter_model.bin")
    }

    fn read_weights(folder: &Path, config: Map<String, Value>, safetensors: &str, pytorch: &str) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint { folder: folder.to_owned(), config, maps: Vec::new(), tensors: Tensors::new() };
        for file in checkpoint.weight_files([safetensors, pytorch])? {
            checkpoint.add(&file)?;
        }
        Ok(checkpoint)
    }

    /// Where it lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json`.
    pub(crate) fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    pub(crate) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The folder's name, or `model`.
    pub(crate) fn name(&self) -> String {
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        folder.file_name().map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
    }

    /// `tokenizer.json` and what belongs to it, when there is one. `vocab`: token ids of the model.
    pub(crate) fn tokenizer(&self, vocab: u32) -> Result<Option<Tokenizer>> {
        Tokenizer::read(&self.folder, &self.config, vocab)
    }

    /// Writes `view` of the tensor `name` to `out` (`view.rows · view.cols` values, row-major).
    ///
    /// Fails when there is no such tensor or a value is not a finite number.
    pub(crate) fn read(&self, name: &str, view: View, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensors.get(name).ok_or_else(|| Failure::new(format!("the checkpoint has no tensor {name:?}")))?;
        view.read(tensor, &self.maps[tensor.file], out).ok_or_else(|| {
            let dtype = tensor.dtype;
            Failure::new(format!("tensor {name:?} holds {dtype} values; convert a checkpoint with F32, F16, BF16 or F64 weights"))
        })?;
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(i) => Err(Failure::new(format!("tensor {name:?} holds {}; the checkpoint is damaged", out[i]))),
        }
    }

    /// Writes `view` of the tensor `name`, which holds bytes, to `out` (`view.rows · view.cols` of them, row-major).
    pub(crate) fn read_bytes(&self, name: &str, view: View, out: &mut [u8]) -> Result<()> {
        let tensor = self.tensors.get(name).ok_or_else(|| Failure::new(format!("the checkpoint has no tensor {name:?}")))?;
        view.read_bytes(tensor, &self.maps[tensor.file], out).ok_or_else(|| {
            let dtype = tensor.dtype;
            Failure::new(format!("tensor {name:?} holds {dtype} values where bytes are expected"))
        })
    }

    /// The bytes of `tensor`, one of this checkpoint's, row-major.
    pub(crate) fn bytes(&self, tensor: &Tensor) -> Vec<u8> {
        tensor.bytes(&self.maps[tensor.file])
    }

    /// Gives back the memory of everything read so far; reading it again is possible and merely slower. The system would reclaim these
    /// pages by itself when it runs short, but until then they would crowd out other programs.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        for map in &self.maps {
            // SAFETY: the maps are read-only views of files, so dropped pages come back with the same contents.
            let _best_effort = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// The files that hold weights: one, or those that an index names.
    fn weight_files(&self, names: [&str; 2]) -> Result<Vec<PathBuf>> {
        for single in names {
            let path = self.folder.join(single);
            if path.is_file() {
                return Ok(vec![path]);
            }
            let path = self.folder.join(format!("{single}.index.json"));
            let Some(index) = json(&path)? else { continue };
            let map = index.get("weight_map").and_then(Value::as_object);
            let names: Option<BTreeSet<&str>> = map.and_then(|m| m.values().map(Value::as_str).collect());
            let Some(names) = names else {
                return Err(Failure::new(format!("{} has no weight_map from tensors to files", path.display())));
            };
            if let Some(name) = names.iter().find(|n| Path::new(n).file_name() != Some(n.as_ref())) {
                return Err(Failure::new(format!("{} names the file {name:?}, which is not in its folder", path.display())));
            }
            return Ok(names.into_iter().map(|n| self.folder.join(n)).collect());
        }
        Err(Failure::new(format!(
            "{} holds no weights: neither {} nor {}, nor an index of their parts",
            self.folder.display(),
            names[0],
            names[1]
        )))
    }

    /// Maps one file and adds its tensors.
    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| Failure::new(format!("cannot open {}: {e}", path.display())))?;
        // SAFETY: the map is read-only; that the checkpoint is not truncated while it is converted is what any reader of a file relies on.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Failure::new(format!("cannot map {}: {e}", path.display())))?;
        let index = self.maps.len();
        let bad = |reason: String| Failure::new(format!("{} cannot be read: {reason}", path.display()));
        let named: Vec<(String, Tensor)> = if path.extension().is_some_and(|e| e == "safetensors") {
            safetensors(&map, index).map_err(bad)?
        } else {
            torch::tensors(&map, index).map_err(bad)?.into_iter().map(|(name, t)| (name.to_owned(), t)).collect()
        };
        for (name, tensor) in named {
            if self.tensors.contains_key(&name) {
                return Err(bad(format!("it holds the tensor {name:?} a second time")));
            }
            self.tensors.insert(name, tensor);
        }
        self.maps.push(map);
        Ok(())
    }
}

/// The folder that `path` is, or in which the `config.json` is that it names, and what that says.
fn configuration(path: &Path) -> Result<(&Path, Map<String, Value>)> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let is_config = path.file_name().is_some_and(|n| n == "config.json");
    if !path.is_dir() && !is_config {
        return Err(Failure::new(format!("{} is not a checkpoint folder; give the folder that holds config.json", path.display())));
    }
    let config_path = folder.join("config.json");
    let Some(config) = json(&config_path)? else {
        return Err(Failure::new(format!("{} is missing; is {} a checkpoint folder?", config_path.display(), folder.display())));
    };
    Ok((folder, config))
}

fn safetensors(file: &[u8], index: usize) -> std::result::Result<Vec<(String, Tensor)>, String> {
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(|e| format!("{e}; is the download complete?"))?;
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let strides = tensor::row_major(&info.shape).ok_or_else(|| format!("tensor {name:?} is too large"))?;
        let start = 8 + header + info.data_offsets.0;
        Ok((name, Tensor { dtype: info.dtype, shape: info.shape.clone(), strides, file: index, start }))
    };
    metadata.tensors().into_iter().map(place).collect()
}

/// The JSON object in the file at `path`; `None` when there is no such file.
fn json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = bytes(path)? else { return Ok(None) };
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(Failure::new(format!("{} is not a JSON object", path.display()))),
        Err(e) => Err(Failure::new(format!("{} is not valid JSON: {e}", path.display()))),
    }
}

/// The contents of the file at `path`; `None` when there is no such file.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::new(format!("cannot read {}: {e}", path.display()))),
    }
}

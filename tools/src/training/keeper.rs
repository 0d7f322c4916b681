//! The state of an unfinished training, in a folder beside its target: with it, training goes on as if it had never stopped.
//!
//! It is one safetensors file with every trained variable and its two moments, and in its metadata the number of steps made and what must be
//! the same to go on. The batches of the steps to come follow from the seed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use tempfile::Builder;

use super::{Optimiser, Stored};
use crate::failure::{Failure, Result};

const FILE: &str = "state.safetensors";
/// Keys of the metadata.
const STEPS: &str = "steps";
const IDENTITY: &str = "identity";

/// Keeps the state of one training.
pub(crate) struct Keeper {
    folder: PathBuf,
    /// What must be the same to go on: options, and fingerprints of what is read.
    identity: Map<String, Value>,
}

impl Keeper {
    /// For a training whose result will be `target`. Fails when there is a state that `resume` does not ask for, or none where it does.
    pub(crate) fn new(target: &Path, identity: Map<String, Value>, resume: bool) -> Result<Keeper> {
        let mut folder = target.as_os_str().to_owned();
        folder.push(".training");
        let keeper = Keeper { folder: folder.into(), identity };
        let place = keeper.folder.display();
        match (keeper.folder.join(FILE).is_file(), resume) {
            (true, false) => {
                Err(Failure::new(format!("{place} holds the state of an unfinished training; go on with --resume, or remove it")))
            }
            (false, true) => Err(Failure::new(format!("{place} holds no state to resume from; leave out --resume"))),
            _ => Ok(keeper),
        }
    }

    /// Writes the state; the one before stays until this one is complete.
    pub(crate) fn save(&self, optimiser: &Optimiser) -> Result<()> {
        let failed = |e: &dyn Display| Failure::new(format!("cannot write to {}: {e}", self.folder.display()));
        std::fs::create_dir_all(&self.folder).map_err(|e| failed(&e))?;
        let temporary = Builder::new().prefix(".hotset-").suffix(".part").tempfile_in(&self.folder).map_err(|e| failed(&e))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in parts(optimiser) {
            tensors.insert(name, Stored::new(tensor, Dtype::F32)?);
        }
        let identity = Value::Object(self.identity.clone()).to_string();
        let metadata = HashMap::from([(STEPS.to_owned(), optimiser.steps_made().to_string()), (IDENTITY.to_owned(), identity)]);
        safetensors::serialize_to_file(tensors, Some(metadata), temporary.path()).map_err(|e| failed(&e))?;
        temporary.persist(self.folder.join(FILE)).map_err(|e| failed(&e))?;
        Ok(())
    }

    /// Brings `optimiser` and its variables to where the state left off. Fails when the state is of another training.
    pub(crate) fn restore(&self, optimiser: &mut Optimiser) -> Result<()> {
        let path = self.folder.join(FILE);
        let bad = |what: &dyn Display| Failure::new(format!("{} cannot be resumed: {what}; remove it to start anew", path.display()));
        let bytes = std::fs::read(&path).map_err(|e| bad(&e))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(&e))?;
        let said = |key: &str| header.metadata().as_ref().and_then(|m| m.get(key)).ok_or_else(|| bad(&"it is no training state"));
        let identity: Map<String, Value> = serde_json::from_str(said(IDENTITY)?).map_err(|e| bad(&e))?;
        let keys = self.identity.keys().chain(identity.keys());
        if let Some(key) = keys.into_iter().find(|k| self.identity.get(*k) != identity.get(*k)) {
            let [then, now] = [&identity, &self.identity].map(|i| i.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string));
            return Err(bad(&format!("it was begun with {key} {then}, not {now}")));
        }
        let steps = said(STEPS)?.parse().map_err(|_| bad(&"its number of steps is none"))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(&e))?;
        for (name, variable) in parts(optimiser) {
            let view = tensors.tensor(&name).map_err(|e| bad(&e))?;
            if view.dtype() != Dtype::F32 || view.shape() != variable.dims() {
                return Err(bad(&format!("{name:?} is not what it should be")));
            }
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
            variable.set(&Tensor::from_vec(values, view.shape(), &Device::Cpu)?.to_device(variable.device())?)?;
        }
        optimiser.go_on_from(steps);
        Ok(())
    }

    /// Removes the state of a training that is done.
    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("cannot remove {}, which is no longer needed: {e}", self.folder.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Variables and moments by their names in the file.
fn parts(optimiser: &Optimiser) -> impl Iterator<Item = (String, &Var)> {
    optimiser.state().flat_map(|(name, [weight, first, second])| {
        [(format!("{name}/weight"), weight), (format!("{name}/first"), first), (format!("{name}/second"), second)]
    })
}

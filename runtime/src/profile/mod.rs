//! Profiles: which experts of a bundle a kind of text uses, and what can be left out for it.
//!
//! A [`Profile`] is a small JSON file tied to a bundle's fingerprint. `hotset profile` makes one from text, a session makes one of what it
//! reads and writes ([`Session::record_use`](crate::Session::record_use)). From it follows a [`Kept`]: the experts that stay when a share of
//! their bytes has to do. That works in two ways with the same answers, bit for bit: [`Bundle::pruned`](crate::bundle::Bundle::pruned) leaves
//! the others out, in memory or in a new file, and [`SessionOptions::kept`](crate::SessionOptions::kept) does without them in one session.

mod activations;
mod kept;
mod recorder;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Manifest};
use crate::error::{Error, Result};
use crate::plan::{Pool, Semantics};

pub(crate) use activations::Side;
pub use activations::{Activations, PoolActivations};
pub use kept::{Criterion, KeepOptions, Kept};
pub(crate) use recorder::{Recorder, StepNotes};
pub use usage::{CHUNKS, ChunkUse, StepUse, Usage, effective};

/// Version of the form. A reader refuses larger ones.
pub const VERSION: u32 = 1;

/// What texts use of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of the form.
    pub version: u32,
    /// The bundle's fingerprint.
    pub fingerprint: String,
    /// The model's name, for people.
    pub model: String,
    /// The bundle's sizes, for whoever has the profile alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Sizes>,
    /// What each text uses, by the text's name.
    pub texts: BTreeMap<String, Usage>,
    /// What dropping experts costs, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
}

/// How large a bundle's parts are, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Everything that is not an expert.
    pub dense: u64,
    /// The experts of each pool, in the plan's order.
    pub pools: Vec<PoolSize>,
}

/// How large the experts of a pool are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSize {
    /// Records: experts that share one count once, those that compute nothing do not.
    pub records: u32,
    /// Bytes of each.
    pub bytes: u64,
}

/// Measured losses, in nats per token, of the bundle with fewer experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    /// Which experts stayed.
    pub criterion: Criterion,
    /// How the others were dropped.
    pub semantics: Semantics,
    /// Predictions behind each figure.
    pub tokens: u64,
    /// With all experts.
    pub base: f64,
    /// With a share of the experts' bytes.
    pub ratios: Vec<RatioLoss>,
}

/// The loss with a share of the experts' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatioLoss {
    /// The share that was asked for, 0 to 1.
    pub keep: f64,
    /// Bytes of the experts that stayed.
    pub bytes: u64,
    /// Nats per token.
    pub loss: f64,
}

impl Profile {
    /// An empty profile of a bundle.
    pub fn new(bundle: &Bundle) -> Profile {
        let manifest = bundle.manifest();
        let (fingerprint, model) = (manifest.fingerprint.clone(), manifest.provenance.name.clone());
        let size = |(pool, p): (usize, &Pool)| PoolSize { records: p.records, bytes: bundle.record_layout(pool).bytes as u64 };
        let sizes = Sizes { dense: bundle.dense_bytes(), pools: bundle.plan().pools.iter().enumerate().map(size).collect() };
        Profile { version: VERSION, fingerprint, model, sizes: Some(sizes), texts: BTreeMap::new(), losses: None }
    }

    /// What JSON says.
    ///
    /// # Errors
    /// When it is no profile, of a newer version, or contradicts itself.
    pub fn read(json: &str) -> Result<Profile> {
        let wrong = |reason: &dyn std::fmt::Display| Error::Input(format!("this is no usable profile: {reason}"));
        let deserializer = &mut serde_json::Deserializer::from_str(json);
        let profile: Profile = serde_path_to_error::deserialize(deserializer).map_err(|e| wrong(&e))?;
        if profile.version == 0 || profile.version > VERSION {
            return Err(wrong(&format_args!("version {} is not {VERSION}, the newest this program knows", profile.version)));
        }
        for (text, usage) in &profile.texts {
            usage.validate().map_err(|reason| wrong(&format_args!("text {text:?}: {reason}")))?;
        }
        Ok(profile)
    }

    /// As JSON.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn to_json(&self) -> Result<String> {
        for (text, usage) in &self.texts {
            usage.validate().map_err(|reason| Error::Input(format!("the profile of {text:?} cannot be written: {reason}")))?;
        }
        let losses = self.losses.iter().flat_map(|l| l.ratios.iter().map(|r| r.loss).chain([l.base]));
        if let Some(loss) = losses.into_iter().find(|l| !l.is_finite()) {
            return Err(Error::Input(format!("the profile cannot be written: a loss is {loss}")));
        }
        serde_json::to_string(self).map_err(|e| Error::Input(format!("the profile cannot be written: {e}")))
    }

    /// Checks that this is a profile of that bundle, or of the one that it was made from expert by expert.
    ///
    /// # Errors
    /// When it is not, or names what the bundle does not have.
    pub fn check(&self, manifest: &Manifest) -> Result<()> {
        let origin = manifest.provenance.origin.as_deref();
        if self.fingerprint != manifest.fingerprint && Some(&*self.fingerprint) != origin {
            return Err(Error::Input(format!(
                "this is a profile of another bundle ({:?}); make one of {:?} with `hotset profile`",
                self.model, manifest.provenance.name
            )));
        }
        let wrong = |what: String| Error::Input(format!("the profile does not fit the bundle: {what}"));
        for (text, usage) in &self.texts {
            usage.fits(&manifest.plan).map_err(|reason| wrong(format!("text {text:?}: {reason}")))?;
        }
        Ok(())
    }

    /// Adds what `usage` saw of the text called `name`.
    ///
    /// # Errors
    /// When the profile knows that text with other steps.
    pub fn add(&mut self, name: &str, usage: &Usage) -> Result<()> {
        match self.texts.get_mut(name) {
            Some(known) => known.add(usage).map_err(|reason| Error::Input(format!("profiles of {name:?} cannot be merged: {reason}"))),
            None => {
                self.texts.insert(name.to_owned(), usage.clone());
                Ok(())
            }
        }
    }

    /// Adds another profile of the same bundle; texts of one name are added up. Measured losses stay only if the other has the same.
    ///
    /// # Errors
    /// When it is a profile of another bundle.
    pub fn merge(&mut self, other: &Profile) -> Result<()> {
        if self.fingerprint != other.fingerprint {
            return Err(Error::Input(format!(
                "{:?} and {:?} are different bundles; their profiles cannot be merged",
                self.model, other.model
            )));
        }
        other.texts.iter().try_for_each(|(name, usage)| self.add(name, usage))?;
        // They were measured on part of the text only.
        self.losses = self.losses.take().filter(|l| other.losses.as_ref() == Some(l));
        Ok(())
    }

    /// What all texts use together.
    pub fn total(&self) -> Option<Usage> {
        let mut usages = self.texts.values();
        let mut total = usages.next()?.clone();
        // Texts of one profile have the same steps; one that has not is left out.
        usages.for_each(|u| drop(total.add(u)));
        Some(total)
    }
}

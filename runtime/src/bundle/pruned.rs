//! Views of a bundle that does without some experts.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Bundle, BundleWriter, Manifest, PADDING, Reading, TOKENIZER};
use crate::error::{Error, Result};
use crate::plan::Pruned;
use crate::profile::Kept;

impl Bundle {
    /// This bundle without the experts that `kept` leaves out: they are not chosen, and their records are not there. The others are in the
    /// order that `kept` gives them. Written to a file, or opened as it is: the answers are the same.
    ///
    /// # Errors
    /// When `kept` names experts that the bundle does not have, or leaves a router fewer than it selects.
    pub fn pruned(&self, kept: &Kept) -> Result<Bundle> {
        self.masked(kept)?.shrunk(kept, &[])
    }

    /// This bundle without the records of the experts that `kept` leaves out, but with routers that still choose these: for each pool, `into`
    /// names a kept expert whose record each of them shares from now on.
    ///
    /// # Errors
    /// When these are not experts of the bundle, or one would be left without a record.
    pub fn merged(&self, kept: &Kept, into: &[BTreeMap<u32, u32>]) -> Result<Bundle> {
        kept.validate(self.plan())?;
        self.clone_view().shrunk(kept, into)
    }

    /// Leaves the records of kept experts, in their order.
    fn shrunk(mut self, kept: &Kept, into: &[BTreeMap<u32, u32>]) -> Result<Bundle> {
        let bundle = &mut self;
        let pools = bundle.manifest.plan.pools.iter_mut().zip(&mut bundle.pools).zip(&kept.pools).enumerate();
        for (i, ((pool, region), kept)) in pools {
            let mut alias = vec![None; pool.experts() as usize];
            let (mut order, mut place) = (Vec::new(), vec![None; pool.records as usize]);
            for &expert in kept {
                // Experts may share a record, or have none.
                alias[expert as usize] = pool.record_of(expert).map(|record| {
                    *place[record as usize].get_or_insert_with(|| {
                        order.push(region.order.as_ref().map_or(record, |o| o[record as usize]));
                        order.len() as u32 - 1
                    })
                });
            }
            for (&dropped, &heir) in into.get(i).into_iter().flatten() {
                let record = alias.get(heir as usize).copied().flatten();
                match (alias.get_mut(dropped as usize), record) {
                    (Some(place), Some(_)) => *place = record,
                    _ => return Err(Error::Input(format!("expert {dropped} of pool {:?} cannot share the record of {heir}", pool.name))),
                }
            }
            let plain = alias.iter().zip(0..).all(|(record, e)| *record == Some(e));
            if plain && order.len() == pool.records as usize && order.iter().zip(0..).all(|(file, r)| *file == r) {
                continue;
            }
            if order.is_empty() {
                return Err(Error::Input(format!("no expert of pool {:?} would be left", pool.name)));
            }
            (pool.records, pool.alias) = (order.len() as u32, (!plain).then_some(alias));
            region.order = Some(order.into());
        }
        // Another model than the file's, as far as profiles, traces and heat are concerned.
        let manifest = &mut bundle.manifest;
        let whole = std::mem::take(&mut manifest.fingerprint);
        let identity = serde_json::to_vec(&(&whole, kept, into)).map_err(|e| Error::Input(e.to_string()))?;
        manifest.fingerprint = blake3::hash(&identity).to_hex().to_string();
        manifest.provenance.origin.get_or_insert(whole);
        check(bundle)?;
        Ok(self)
    }

    /// Writes this bundle, a view for the most part, to a file of its own, with a line for its history. `progress` is told the bytes
    /// written so far, and how many there will be.
    ///
    /// # Errors
    /// When the file cannot be written; there is nothing at `path` then.
    pub fn write(&self, path: &Path, history: &str, progress: impl FnMut(u64, u64)) -> Result<Manifest> {
        self.write_with(path, history, |_, _, _| Ok(()), progress)
    }

    /// The same, with a chance to `change` the bytes of each record, of which pool and number are given, before it is written.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of `change`.
    pub fn write_with(
        &self,
        path: &Path,
        history: &str,
        mut change: impl FnMut(usize, u32, &mut [u8]) -> Result<()>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Manifest> {
        let mut manifest = self.manifest().clone();
        manifest.provenance.history.push(history.to_owned());
        let mut writer = BundleWriter::create(path, manifest, self.tokenizer().map(<[u8]>::len))?;
        let (entries, mut done) = (writer.entries().to_vec(), 0);
        let mut records = self.plan().pools.iter().enumerate().flat_map(|(pool, p)| (0..p.records).map(move |r| (pool, r)));
        let all = entries.iter().map(|e| e.bytes as u64).sum();
        let mut record = Vec::new();
        for entry in entries.iter().filter(|e| e.name != PADDING) {
            let missing = || Error::Input(format!("the bundle has no tensor {:?}", entry.name));
            match (&*entry.name, self.dense(&entry.name)) {
                (TOKENIZER, _) => writer.write(TOKENIZER, self.tokenizer().ok_or_else(missing)?)?,
                (name, Some(bytes)) => writer.write(name, bytes)?,
                (name, None) => {
                    // Not through the mapping: a bundle may be larger than memory.
                    let (pool, r) = records.next().ok_or_else(missing)?;
                    record.resize(entry.bytes, 0);
                    self.read_record(pool, r, &mut record, Reading::default())?;
                    change(pool, r, &mut record)?;
                    writer.write(name, &record)?;
                }
            }
            done += entry.bytes as u64;
            progress(done, all);
        }
        writer.finish()
    }

    /// This bundle with all its records, but with routers that do not choose the experts that `kept` leaves out.
    ///
    /// # Errors
    /// As [`pruned`](Self::pruned).
    pub fn masked(&self, kept: &Kept) -> Result<Bundle> {
        kept.validate(self.plan())?;
        let dropped = kept.dropped(self.plan());
        let mut bundle = self.clone_view();
        for (step, routed) in bundle.manifest.plan.steps.iter_mut().filter_map(|s| Some((&s.name, s.routed.as_mut()?))) {
            let gone = &dropped[routed.pool as usize];
            if gone.is_empty() {
                continue;
            }
            let pruned = routed.router.pruned.get_or_insert_with(|| Pruned { experts: Vec::new(), semantics: kept.semantics });
            if pruned.semantics != kept.semantics {
                return Err(Error::Input(format!("the router of {step:?} is pruned already, with other semantics")));
            }
            pruned.experts.extend(gone);
            pruned.experts.sort_unstable();
            pruned.experts.dedup();
        }
        check(&bundle)?;
        Ok(bundle)
    }
}

fn check(bundle: &Bundle) -> Result<()> {
    let valid = bundle.manifest.plan.validate(&bundle.manifest.tensors);
    valid.map_err(|e| Error::Input(format!("these experts cannot be left out: {e}")))
}

//! How often records are used: learned while running, fading, saved for a warm start.

use serde::{Deserialize, Serialize};

use super::{Catalogue, RecordId};

/// A point in a run: forward passes so far, and the step of the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Forward passes, of one token or of a batch.
    pub pass: u64,
    /// Step of the plan.
    pub step: usize,
}

/// Passes after which the memory of a use has faded to half.
const HALF_LIFE: f32 = 128.0;

/// Uses of one record.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    /// Share of passes that used it, older ones weighing less.
    share: f32,
    /// The pass this number is of.
    pass: u64,
    /// The last use.
    last: Option<Moment>,
}

/// The uses of every record.
#[derive(Clone, Debug)]
pub struct Heat {
    uses: Vec<Uses>,
}

/// Heat as it is kept between runs: for each pool, the share of passes that used each record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// The bundle's.
    fingerprint: String,
    pools: Vec<Vec<f32>>,
}

/// Version of the saved form.
const VERSION: u32 = 1;

impl Heat {
    /// Nothing was used yet.
    pub fn cold(records: usize) -> Heat {
        Heat { uses: vec![Uses::default(); records] }
    }

    /// Notes that a record is used.
    pub fn note(&mut self, record: RecordId, now: Moment) {
        let share = self.share(record, now.pass);
        let gain = 1.0 - (-1.0 / HALF_LIFE).exp2();
        self.uses[record.index()] = Uses { share: share + (1.0 - share) * gain, pass: now.pass, last: Some(now) };
    }

    /// Share of passes that used a record, older ones weighing less.
    pub fn share(&self, record: RecordId, pass: u64) -> f32 {
        let uses = &self.uses[record.index()];
        uses.share * (-(pass.saturating_sub(uses.pass) as f32) / HALF_LIFE).exp2()
    }

    /// When a record was last used.
    pub fn last(&self, record: RecordId) -> Option<Moment> {
        self.uses[record.index()].last
    }

    /// As JSON, tied to the bundle with this fingerprint.
    pub fn save(&self, catalogue: &Catalogue, fingerprint: &str, pass: u64) -> String {
        let of_pool = |p: &super::PoolRecords| (p.first..p.first + p.records).map(|r| self.share(RecordId(r), pass)).collect();
        let saved = Saved { version: VERSION, fingerprint: fingerprint.to_owned(), pools: catalogue.pools().iter().map(of_pool).collect() };
        // A struct of strings and numbers has no way to fail.
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// What [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// A sentence about what is wrong: not such a file, of a newer version, or of another bundle.
    pub fn load(json: &str, catalogue: &Catalogue, fingerprint: &str) -> Result<Heat, String> {
        let saved: Saved = serde_json::from_str(json).map_err(|e| format!("this is no heat file: {e}"))?;
        if saved.version > VERSION {
            return Err(format!("version {} of heat files is newer than this program", saved.version));
        }
        if saved.fingerprint != fingerprint {
            return Err("the heat belongs to another bundle; learn it anew by running this one".into());
        }
        let fits = saved.pools.len() == catalogue.pools().len()
            && saved.pools.iter().zip(catalogue.pools()).all(|(s, p)| s.len() == p.records as usize);
        if !fits || saved.pools.iter().flatten().any(|share| !(0.0..=1.0).contains(share)) {
            return Err("the heat file is damaged: its pools are not those of the bundle".into());
        }
        let uses = saved.pools.iter().flatten().map(|&share| Uses { share, ..Uses::default() }).collect();
        Ok(Heat { uses })
    }
}

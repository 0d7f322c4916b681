//! Recorded routing: which records each forward pass used at each step.

use serde::{Deserialize, Serialize};

use super::Catalogue;

/// One forward pass: for each step of the plan the records it used, ascending, each once; empty where nothing is routed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pass(pub Vec<Vec<u32>>);

/// Passes in order, tied to a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Version of this form.
    pub version: u32,
    /// The bundle's.
    pub fingerprint: String,
    /// The passes.
    pub passes: Vec<Pass>,
}

impl Trace {
    /// Version of the form.
    pub const VERSION: u32 = 1;

    /// A trace without passes.
    pub fn new(fingerprint: &str) -> Trace {
        Trace { version: Trace::VERSION, fingerprint: fingerprint.to_owned(), passes: Vec::new() }
    }

    /// What JSON says.
    ///
    /// # Errors
    /// A sentence about what is wrong: no trace, of a newer version, of another bundle, or naming what the bundle does not have.
    pub fn read(json: &str, catalogue: &Catalogue, fingerprint: &str) -> Result<Trace, String> {
        let trace: Trace = serde_json::from_str(json).map_err(|e| format!("this is no trace: {e}"))?;
        if trace.version > Trace::VERSION {
            return Err(format!("version {} of traces is newer than this program", trace.version));
        }
        if trace.fingerprint != fingerprint {
            return Err("the trace belongs to another bundle; record it anew with `hotset trace`".into());
        }
        let fits = |pass: &Pass| {
            pass.0.len() == catalogue.steps().len()
                && pass.0.iter().zip(catalogue.steps()).all(|(records, pool)| {
                    let limit = pool.map_or(0, |p| catalogue.pools()[p].records);
                    records.iter().all(|&r| r < limit) && records.is_sorted_by(|a, b| a < b)
                })
        };
        match trace.passes.iter().position(|p| !fits(p)) {
            None => Ok(trace),
            Some(i) => Err(format!("pass {i} of the trace names records that the bundle does not have")),
        }
    }
}

//! The page about a profile.

use hotset::profile::Profile;

use crate::failure::Result;

/// A page about `profile`, compared with `other`.
pub(crate) fn html(profile: &Profile, other: Option<&Profile>) -> Result<String> {
    Ok(serde_json::to_string(&(profile, other))?)
}

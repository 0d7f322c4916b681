//! The page about a profile: one HTML file with everything in it, which needs no network and no other file.
//!
//! `page.html` is filled with the style, the scripts (one idea per file, joined in order) and the profile's numbers as JSON. Nothing of a
//! profile becomes HTML here or there: scripts put names into the page as text.

mod data;

use hotset::profile::Profile;

use crate::failure::Result;
use data::Data;

/// In the order in which they depend on each other.
const SCRIPTS: [&str; 8] = [
    include_str!("numbers.js"),
    include_str!("draw.js"),
    include_str!("map.js"),
    include_str!("chart.js"),
    include_str!("sections.js"),
    include_str!("compare.js"),
    include_str!("sizes.js"),
    include_str!("page.js"),
];

/// A page about `profile`, compared with `other`.
///
/// # Errors
/// When the two are of models with different experts, or there is nothing in them.
pub(crate) fn html(profile: &Profile, other: Option<&Profile>) -> Result<String> {
    let data = serde_json::to_string(&Data::new(profile, other)?)?;
    let page = include_str!("page.html").replace("{{css}}", include_str!("page.css")).replace("{{js}}", &SCRIPTS.join("\n"));
    // Last, so that what it contains is never taken for a place to fill. `<` would end the script element it is in.
    Ok(page.replace("{{data}}", &data.replace('<', "\\u003c")))
}

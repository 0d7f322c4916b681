//! Arguments of the examples: a bundle (by default the demo bundle of the source tree) and a text.

use std::path::PathBuf;

/// The bundle and the text on the command line, or the demo bundle and `text`.
pub(crate) fn bundle_and(text: &str) -> (PathBuf, String) {
    let mut args = std::env::args().skip(1);
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
    (args.next().unwrap_or_else(|| demo.into()).into(), args.next().unwrap_or_else(|| text.into()))
}

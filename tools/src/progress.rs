//! Progress of long work, drawn on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

/// Bytes done; the total is set when it is known.
pub(crate) fn bytes() -> ProgressBar {
    bar(0, "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Tells such a bar the bytes done, and of how many.
pub(crate) fn advance(bar: &ProgressBar) -> impl Fn(u64, u64) + Sync {
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// Tokens done of `total`.
pub(crate) fn tokens(total: usize) -> ProgressBar {
    bar(total, "{wide_bar} {pos} of {len} tokens, {per_sec}, {eta} left")
}

/// Training steps done of `total`.
pub(crate) fn steps(total: usize) -> ProgressBar {
    bar(total, "{wide_bar} step {pos} of {len}, loss {msg}, {eta} left")
}

fn bar(length: usize, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}

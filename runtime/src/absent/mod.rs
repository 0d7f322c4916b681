//! Stand-ins for what this build leaves out: each has the shape of what it stands for, and says what is missing when it is needed.

#[cfg(not(feature = "cpu"))]
pub(crate) mod cpu;
#[cfg(not(feature = "gpu"))]
pub(crate) mod gpu;
#[cfg(not(feature = "templates"))]
pub(crate) mod jinja;
#[cfg(not(feature = "tokenizer"))]
pub(crate) mod vocabulary;

/// Says that this build cannot do something, and what to do instead.
pub(crate) fn without(what: &str, feature: &str, instead: &str) -> String {
    format!("this build of hotset has no {what} (cargo feature `{feature}`): {instead}")
}

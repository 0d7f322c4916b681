//! Bringing records from the file into memory: buffers that can be given back, threads that read, and a cache of records in the host's
//! memory under a budget.

mod buffer;
mod host;
mod reader;
mod source;

pub(crate) use buffer::Buffer;
pub(crate) use host::{Feed, Host, HostOptions, too_small};
#[cfg(any(target_os = "linux", target_os = "android", windows))]
pub(crate) use reader::Destination;
pub(crate) use reader::{Done, Reader};
pub(crate) use source::Source;

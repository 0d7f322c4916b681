//! What a device has to run a model with: from a table, from a line of figures, or measured here.

mod table;

use std::str::FromStr;

use bytesize::ByteSize;
use hotset::bundle::Bundle;
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::measure;
use table::{Entry, TABLE};

/// What a model can use of a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// Bytes of memory that an app may take.
    pub(crate) ram: u64,
    /// Bytes per second that it reads from there.
    pub(crate) bandwidth: f64,
    /// Bytes per second of large reads at random places of its storage.
    pub(crate) flash: f64,
    /// A GPU with memory of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vram: Option<Vram>,
    /// Where the figures are from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) source: String,
}

/// Memory of a GPU's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Vram {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Bytes per second that the GPU reads from it.
    pub(crate) bandwidth: f64,
}

/// A device that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Known(Device),
    /// The one this runs on.
    Here,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Asked, String> {
        if s == "here" {
            return Ok(Asked::Here);
        }
        if let Some(entry) = TABLE.iter().find(|e| e.name == s) {
            return Ok(Asked::Known(Device::from(entry)));
        }
        if s.contains('=') {
            return spec(s).map(Asked::Known);
        }
        let names: Vec<&str> = TABLE.iter().map(|e| e.name).collect();
        Err(format!("there is no device {s:?}; there are {}, here, or figures such as {EXAMPLE}", names.join(", ")))
    }
}

const EXAMPLE: &str = "ram=1.5GiB,bandwidth=20GB/s,flash=1.2GB/s";

/// Reads `ram=1.5GiB,bandwidth=20GB/s,flash=1.2GB/s`, to which `vram=12GiB,vram-bandwidth=360GB/s` may be added.
fn spec(s: &str) -> std::result::Result<Device, String> {
    let (mut ram, mut bandwidth, mut flash, mut vram, mut vram_bandwidth) = (None, None, None, None, None);
    for part in s.split(',').map(str::trim) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no figure; write such as {EXAMPLE}"))?;
        let (place, rate) = match key {
            "ram" => (&mut ram, false),
            "bandwidth" => (&mut bandwidth, true),
            "flash" => (&mut flash, true),
            "vram" => (&mut vram, false),
            "vram-bandwidth" => (&mut vram_bandwidth, true),
            _ => return Err(format!("{key:?} is unknown; there are ram, bandwidth, flash, vram and vram-bandwidth")),
        };
        let number = if rate { value.strip_suffix("/s") } else { Some(value) };
        let bytes = number.and_then(|n| n.parse::<ByteSize>().ok()).map(|b| b.as_u64()).filter(|b| *b > 0);
        let form = if rate { "a speed such as 20GB/s" } else { "a size such as 1.5GiB" };
        *place = Some(bytes.ok_or_else(|| format!("{key} is {form}, not {value:?}"))?);
    }
    let missing = |key: &str| format!("{key} is missing; write such as {EXAMPLE}");
    let vram = match (vram, vram_bandwidth) {
        (None, None) => None,
        (Some(bytes), Some(rate)) => Some(Vram { bytes, bandwidth: rate as f64 }),
        _ => return Err("vram and vram-bandwidth belong together".into()),
    };
    let rate = |value: Option<u64>, key| value.map(|v| v as f64).ok_or_else(|| missing(key));
    let ram = ram.ok_or_else(|| missing("ram"))?;
    Ok(Device {
        name: s.to_owned(),
        ram,
        bandwidth: rate(bandwidth, "bandwidth")?,
        flash: rate(flash, "flash")?,
        vram,
        source: String::new(),
    })
}

impl From<&Entry> for Device {
    fn from(e: &Entry) -> Device {
        let bytes = |gib: f64| (gib * f64::from(1 << 30)) as u64;
        let vram = e.vram.map(|(gib, rate)| Vram { bytes: bytes(gib), bandwidth: rate * 1e9 });
        let (bandwidth, flash) = (e.bandwidth * 1e9, e.flash * 1e9);
        Device { name: e.title.to_owned(), ram: bytes(e.ram), bandwidth, flash, vram, source: e.source.to_owned() }
    }
}

impl Device {
    /// This machine, measured: memory that is free now, and how fast `bundle`'s experts are read from where it lies.
    ///
    /// # Errors
    /// When the system does not say what is free, or the bundle has no experts to read.
    pub(crate) fn here(bundle: &Bundle, threads: usize) -> Result<Device> {
        let ram = measure::available_memory();
        let ram =
            ram.ok_or_else(|| Failure::new(format!("this system does not say what memory is free; give figures such as {EXAMPLE}")))?;
        let bandwidth = measure::memory_bandwidth(threads);
        let flash = measure::flash(bundle)?;
        let source =
            format!("ram={:.2}GiB,bandwidth={:.1}GB/s,flash={:.2}GB/s", ram as f64 / f64::from(1 << 30), bandwidth / 1e9, flash / 1e9);
        Ok(Device { name: "this machine".into(), ram, bandwidth, flash, vram: None, source })
    }

    /// The same device with so much less of the system's memory.
    pub(crate) fn without(&self, bytes: u64) -> Device {
        Device { ram: self.ram.saturating_sub(bytes), ..self.clone() }
    }

    /// Bytes of the memory that experts are computed from.
    pub(crate) fn memory(&self) -> u64 {
        self.vram.map_or(self.ram, |v| v.bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let Asked::Known(d) = "ram=1.5GiB, bandwidth=20GB/s,flash=1.2GB/s".parse().unwrap() else { panic!() };
        assert_eq!((d.ram, d.bandwidth, d.flash, d.vram), (3 << 29, 20e9, 1.2e9, None));
        let Asked::Known(d) = "ram=8GiB,bandwidth=50GB/s,flash=3GB/s,vram=12GiB,vram-bandwidth=360GB/s".parse().unwrap() else { panic!() };
        assert_eq!((d.memory(), d.vram.map(|v| v.bandwidth)), (12 << 30, Some(360e9)));
        for (wrong, says) in [
            ("ram=8GiB", "bandwidth is missing"),
            ("ram=8GiB,bandwidth=20GB,flash=1GB/s", "a speed such as"),
            ("ram=many,bandwidth=20GB/s,flash=1GB/s", "a size such as"),
            ("ram=0,bandwidth=20GB/s,flash=1GB/s", "a size such as"),
            ("ram=1GiB,speed=3", "\"speed\" is unknown"),
            ("ram=1GiB,bandwidth=20GB/s,flash=1GB/s,vram=2GiB", "belong together"),
            ("nokia-3310", "there are iphone-14-pro"),
        ] {
            let error = wrong.parse::<Asked>().unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_table() {
        for e in &TABLE {
            assert_eq!(e.name.parse::<Asked>(), Ok(Asked::Known(Device::from(e))));
            assert!(e.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", e.name);
            // Slips of a power of ten.
            assert!((1.0..=512.0).contains(&e.ram) && (10.0..=1000.0).contains(&e.bandwidth) && (0.3..=20.0).contains(&e.flash));
            assert!(["memory:", "bandwidth:", "storage:"].iter().all(|figure| e.source.contains(figure)), "{}", e.name);
        }
    }
}

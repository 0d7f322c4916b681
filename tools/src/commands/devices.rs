//! `hotset devices`: what bundles can run on here.

use std::io::{Write, stdout};

use hotset::gpu::{AdapterReport, adapters};
use serde::Serialize;

use crate::failure::Result;

/// List what bundles can run on here, and which --device takes which
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Devices {
    /// What `--device auto` takes: `cpu` or an adapter's name.
    auto: String,
    cpu: String,
    adapters: Vec<AdapterReport>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let adapters = adapters();
    let hardware = adapters.iter().find(|a| a.hardware && a.unusable.is_none());
    let auto = hardware.map_or("cpu".to_owned(), |a| a.name.clone());
    let devices = Devices { auto, cpu: hotset::cpu::describe(), adapters };
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &devices)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "cpu   {}", devices.cpu)?;
    for a in &devices.adapters {
        let kind = match (a.hardware, a.discrete) {
            (true, true) => "discrete GPU",
            (true, false) => "integrated GPU",
            (false, _) => "software, not a GPU",
        };
        writeln!(out, "gpu   {} ({kind}, {}, {})", a.name, a.backend, a.driver)?;
        let mib = |bytes: u64| bytes >> 20;
        let (least, most) = a.subgroup;
        writeln!(
            out,
            "      buffers up to {} MiB, bindings up to {} MiB, {} KiB shared memory, subgroups of {least} to {most}",
            mib(a.max_buffer_bytes),
            mib(a.max_binding_bytes),
            a.workgroup_bytes >> 10
        )?;
        if !a.features.is_empty() {
            writeln!(out, "      uses {}", a.features.join(", "))?;
        }
        if let Some(reason) = &a.unusable {
            writeln!(out, "      cannot be used: {reason}")?;
        }
    }
    if devices.adapters.is_empty() {
        writeln!(out, "gpu   none; bundles run on the CPU")?;
    }
    Ok(writeln!(out, "auto  takes {}", devices.auto)?)
}

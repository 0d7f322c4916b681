//! Expands every variant of every kernel, validates it with naga, and writes the typed table that `src/lib.rs` includes.
//! A broken shader fails the build with naga's own diagnostic.

#[path = "src/emit.rs"]
mod emit;
#[path = "src/manifest.rs"]
mod manifest;
#[path = "src/preprocess.rs"]
mod preprocess;
#[path = "src/sources.rs"]
mod sources;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use manifest::{Axis, Entry};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use sources::Sources;

/// What kernels may use; those that compute in half precision must say so with `enable f16;`.
const CAPABILITIES: Capabilities = Capabilities::IMMEDIATES
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SHADER_FLOAT16_IN_FLOAT32)
    .union(Capabilities::SHADER_FLOAT16);

type Result<T> = std::result::Result<T, String>;

fn main() -> std::process::ExitCode {
    for input in ["wgsl", "variants", "src/emit.rs", "src/manifest.rs", "src/preprocess.rs", "src/sources.rs"] {
        println!("cargo:rerun-if-changed={input}");
    }
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (axes, entries) = manifest::parse(&read(Path::new("variants"))?)?;
    let sources = Sources::read()?;
    let mut out = String::new();
    for Axis { name, values } in &axes {
        let _ = writeln!(out, "/// An axis of variation.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]\npub enum {name} {{");
        for v in values {
            let _ = writeln!(out, "    /// `{}_{}` is defined.\n    {v},", name.to_uppercase(), v.to_uppercase());
        }
        let _ = writeln!(out, "}}\n");
    }
    for entry in &entries {
        kernel(entry, &axes, &sources, &mut out)?;
    }
    let names = entries.iter().map(|e| format!("{}::VARIANTS", e.kernel)).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "/// Every variant of every kernel.\npub const KERNELS: &[&[Variant]] = &[{names}];");
    let target = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(target.join("source.wgsl"), &sources.text).and_then(|()| fs::write(target.join("kernels.rs"), out)).map_err(|e| e.to_string())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes the module of one kernel.
fn kernel(entry: &Entry, axes: &[Axis], sources: &Sources, out: &mut String) -> Result<()> {
    let name = &entry.kernel;
    let text = sources.file(name).ok_or(format!("variants: no kernel {name}"))?;
    let purpose = text.lines().next().and_then(|l| l.strip_prefix("// ")).ok_or(format!("{name}.wgsl: no purpose sentence"))?;
    // Brackets would be links in its documentation.
    let purpose = purpose.replace('[', "\\[").replace(']', "\\]");
    let mut interface: Option<emit::Interface> = None;
    let mut variants = String::new();
    for values in manifest::combinations(axes, &entry.axes) {
        let label: Vec<&str> = entry.axes.iter().zip(&values).map(|(&a, &v)| axes[a].values[v].as_str()).collect();
        let label = [&[name.as_str()], label.as_slice()].concat().join("/");
        let lines = preprocess::expand(sources, name, &manifest::defines(axes, &entry.axes, &values))?;
        let wgsl = lines.concat();
        let module = naga::front::wgsl::parse_str(&wgsl).map_err(|e| e.emit_to_string_with_path(&wgsl, &label))?;
        Validator::new(ValidationFlags::all(), CAPABILITIES)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| e.emit_to_string_with_path(&wgsl, &label))?;
        let this = emit::interface(&module, name).map_err(|e| format!("{label}: {e}"))?;
        let _ =
            writeln!(variants, "    Variant {{ name: {label:?}, parts: &{:?}, workgroup: {:?} }},", sources.parts(&lines), this.workgroup);
        if interface.as_ref().is_some_and(|i| *i != this) {
            return Err(format!("{label}: buffers, parameters or workgroup differ from those of the other variants"));
        }
        interface = Some(this);
    }
    let rust = interface.map(|i| i.rust).unwrap_or_default();
    let lower = |a: usize| axes[a].name.to_lowercase();
    let arguments = entry.axes.iter().map(|&a| format!("{}: super::{}", lower(a), axes[a].name)).collect::<Vec<_>>().join(", ");
    let index = entry.axes.iter().fold("0".to_owned(), |so_far, &a| match so_far.as_str() {
        "0" => format!("{} as usize", lower(a)),
        _ => format!("({so_far}) * {} + {} as usize", axes[a].values.len(), lower(a)),
    });
    let _ = writeln!(
        out,
        "/// {purpose}\npub mod {name} {{\n#[allow(unused_imports, reason = \"not every kernel writes\")]\nuse super::{{Access, Kernel, Variant}};\n\n{rust}\
         pub(crate) const VARIANTS: &[Variant] = &[\n{variants}];\n\n\
         /// The variant for these values.\npub fn kernel<B>({arguments}) -> Kernel<Buffers<B>> {{\n    Kernel::new(&VARIANTS[{index}])\n}}\n}}\n"
    );
    Ok(())
}

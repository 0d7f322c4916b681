//! Turns a validated module into Rust: the struct of its buffers and the struct of its parameters. Used by the build script only.

use std::fmt::Write;

use naga::{AddressSpace, Handle, Module, Scalar, ScalarKind, StorageAccess, Type, TypeInner};

/// What a host must know of a kernel. Variants of one kernel must agree on it.
#[derive(PartialEq)]
pub(crate) struct Interface {
    /// Rust source of `Buffers` and `Params`.
    pub(crate) rust: String,
    /// Workgroup size.
    pub(crate) workgroup: [u32; 3],
}

/// Derives the interface of the entry point `main`.
pub(crate) fn interface(module: &Module, kernel: &str) -> Result<Interface, String> {
    let entry = module.entry_points.iter().find(|e| e.name == "main").ok_or("no entry point `main`")?;
    let mut buffers = Vec::new();
    let (mut params, mut latch) = (None, None);
    for (_, v) in module.global_variables.iter() {
        let name = v.name.clone().unwrap_or_default();
        match (v.space, &v.binding) {
            (AddressSpace::Storage { access }, Some(b)) if b.group == 0 => {
                buffers.push((b.binding, name, access.contains(StorageAccess::STORE)));
            }
            (AddressSpace::Storage { access }, Some(b)) if (b.group, b.binding, name.as_str()) == (1, 0, "latch") => {
                latch = Some(access.contains(StorageAccess::STORE));
            }
            (AddressSpace::Immediate, _) => params = Some(v.ty),
            (AddressSpace::WorkGroup | AddressSpace::Private, _) => {}
            (space, _) => {
                return Err(format!("variable {name:?} in {space:?}; kernels use storage buffers of group 0, the latch, and immediates"));
            }
        }
    }
    buffers.sort();
    if buffers.iter().enumerate().any(|(i, b)| b.0 as usize != i) {
        return Err(format!("bindings are not 0..{}: {buffers:?}", buffers.len()));
    }
    let params = params.ok_or("no immediates called `params`")?;
    let latch = latch.ok_or("it does not look at the latch")?;
    let of = |write: bool| if write { "Access::ReadWrite" } else { "Access::Read" };

    let mut rust = String::new();
    let n = buffers.len();
    let _ = writeln!(rust, "/// What `{kernel}` reads and writes.\n#[derive(Clone, Copy, Debug)]\npub struct Buffers<B> {{");
    for (i, name, write) in &buffers {
        let _ = writeln!(rust, "    /// Binding {i}, {}.\n    pub {name}: B,", if *write { "read and written" } else { "read" });
    }
    let list = buffers.iter().map(|b| format!("self.{}", b.1)).collect::<Vec<_>>().join(", ");
    let access = buffers.iter().map(|b| of(b.2)).collect::<Vec<_>>().join(", ");
    let _ = writeln!(
        rust,
        "}}\n\nimpl<B> super::Buffers<B> for Buffers<B> {{\n    const ACCESS: &'static [Access] = &[{access}];\n    const LATCH: Access = {};\n    type Params = Params;\n\
         \x20   fn list(self) -> impl Iterator<Item = B> {{\n        <[B; {n}]>::into_iter([{list}])\n    }}\n}}\n",
        of(latch)
    );
    structs(module, params, "Params", &mut rust, &mut Vec::new())?;
    Ok(Interface { rust, workgroup: entry.workgroup_size })
}

/// Writes the struct of type `ty`, those it contains first.
fn structs(module: &Module, ty: Handle<Type>, name: &str, out: &mut String, done: &mut Vec<Handle<Type>>) -> Result<(), String> {
    let TypeInner::Struct { members, span } = &module.types[ty].inner else {
        return Err(format!("{name} is no struct"));
    };
    done.push(ty);
    let mut fields = String::new();
    let mut at = 0;
    for m in members {
        let field = m.name.clone().unwrap_or_default();
        if m.offset != at {
            return Err(format!("{name}.{field} has padding before it"));
        }
        let (rust, bytes) = field_type(module, m.ty, out, done)?;
        at += bytes;
        let _ = writeln!(fields, "    /// At byte {}.\n    pub {field}: {rust},", m.offset);
    }
    if at != *span {
        return Err(format!("{name} has padding at its end"));
    }
    let derive = "#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]";
    let _ = writeln!(out, "/// `{name}` of the shader, {span} bytes.\n#[repr(C)]\n{derive}\npub struct {name} {{\n{fields}}}\n");
    Ok(())
}

/// Rust type and size of a field.
fn field_type(module: &Module, ty: Handle<Type>, out: &mut String, done: &mut Vec<Handle<Type>>) -> Result<(String, u32), String> {
    match &module.types[ty].inner {
        TypeInner::Scalar(Scalar { kind, width: 4 }) => match kind {
            ScalarKind::Uint => Ok(("u32".into(), 4)),
            ScalarKind::Float => Ok(("f32".into(), 4)),
            other => Err(format!("parameters of kind {other:?}")),
        },
        TypeInner::Array { base, size: naga::ArraySize::Constant(n), stride } => {
            let (element, bytes) = field_type(module, *base, out, done)?;
            if bytes == *stride { Ok((format!("[{element}; {n}]"), n.get() * stride)) } else { Err("an array with padding".into()) }
        }
        TypeInner::Struct { span, .. } => {
            let name = module.types[ty].name.clone().unwrap_or_default();
            if !done.contains(&ty) {
                structs(module, ty, &name, out, done)?;
            }
            Ok((name, *span))
        }
        other => Err(format!("parameters of type {other:?}")),
    }
}

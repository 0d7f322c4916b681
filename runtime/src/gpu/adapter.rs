//! Finding a GPU: what is there, what it can do, and which one is meant.

use serde::Serialize;

use crate::error::{Error, Result};

/// Which adapter to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// A hardware GPU, discrete before integrated.
    #[default]
    Hardware,
    /// A hardware GPU if there is one, else a software adapter.
    Any,
    /// The first whose name contains this, whatever the case.
    Named(String),
}

/// What an adapter is and which of its abilities are used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterReport {
    /// As the driver names it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Whether it is a GPU and not a program that pretends to be one.
    pub hardware: bool,
    /// Whether it has memory of its own.
    pub discrete: bool,
    /// Driver and version.
    pub driver: String,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Most bytes of a buffer that a kernel sees at once.
    pub max_binding_bytes: u64,
    /// Shared memory of a workgroup, in bytes.
    pub workgroup_bytes: u32,
    /// Invocations that run in lockstep: least and most.
    pub subgroup: (u32, u32),
    /// Optional features that are used, by name.
    pub features: Vec<&'static str>,
    /// Why this adapter cannot be used, if it cannot.
    pub unusable: Option<String>,
}

/// Every adapter of this machine, in the order in which they are preferred.
pub fn adapters() -> Vec<AdapterReport> {
    all(&instance()).into_iter().map(|(report, _)| report).collect()
}

pub(super) fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Validation costs time at every dispatch; the environment can turn it on in release builds too.
    descriptor.flags = if cfg!(debug_assertions) { wgpu::InstanceFlags::debugging() } else { wgpu::InstanceFlags::empty() }.with_env();
    wgpu::Instance::new(descriptor)
}

fn all(instance: &wgpu::Instance) -> Vec<(AdapterReport, wgpu::Adapter)> {
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let mut found: Vec<_> = found.into_iter().map(|a| (report(&a), a)).collect();
    // Stable: the driver's order decides among equals.
    found.sort_by_key(|(r, _)| (!r.hardware, !r.discrete));
    found
}

/// Picks an adapter that can be used.
///
/// # Errors
/// When there is none; the message says what there is instead.
pub(super) fn choose(instance: &wgpu::Instance, choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let found = all(instance);
    let names = found.iter().map(|(r, _)| r.name.as_str()).collect::<Vec<_>>().join(", ");
    let matches = |r: &AdapterReport| match choice {
        AdapterChoice::Hardware => r.hardware,
        AdapterChoice::Any => true,
        AdapterChoice::Named(part) => r.name.to_lowercase().contains(&part.to_lowercase()),
    };
    let (usable, unusable): (Vec<_>, Vec<_>) = found.into_iter().filter(|(r, _)| matches(r)).partition(|(r, _)| r.unusable.is_none());
    if let Some((_, adapter)) = usable.into_iter().next() {
        return Ok(adapter);
    }
    if let Some((r, reason)) = unusable.first().and_then(|(r, _)| Some((r, r.unusable.as_ref()?))) {
        return Err(Error::Device(format!("{} cannot be used: {reason}; update its driver or choose the CPU", r.name)));
    }
    Err(Error::Device(match (choice, names.is_empty()) {
        (AdapterChoice::Named(part), true) => {
            format!(
                "no GPU is called {part:?}, nor is there any that Vulkan, Metal or DirectX 12 can see; install a driver or choose the CPU"
            )
        }
        (_, true) => "there is no GPU that Vulkan, Metal or DirectX 12 can see; install a driver or choose the CPU".into(),
        (AdapterChoice::Named(part), _) => format!("no GPU is called {part:?}; there is {names}"),
        _ => format!("there is no hardware GPU, only {names}; name it to use it, or choose the CPU"),
    }))
}

pub(super) fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let used = [
        (wgpu::Features::IMMEDIATES, "immediates"),
        (wgpu::Features::SUBGROUP, "subgroups"),
        (wgpu::Features::SHADER_F16, "half precision"),
    ];
    let unusable = if !features.contains(wgpu::Features::IMMEDIATES) || limits.max_immediate_size < super::device::IMMEDIATES {
        Some(format!("it lacks {} bytes of immediate data (push constants)", super::device::IMMEDIATES))
    } else if limits.max_compute_invocations_per_workgroup < 256 || limits.max_compute_workgroup_storage_size < 16 << 10 {
        Some("its workgroups are smaller than 256 invocations with 16 KiB".into())
    } else if limits.max_storage_buffers_per_shader_stage < 8 {
        Some("its kernels see fewer than 8 buffers".into())
    } else {
        None
    };
    AdapterReport {
        hardware: info.device_type != wgpu::DeviceType::Cpu,
        discrete: info.device_type == wgpu::DeviceType::DiscreteGpu,
        backend: info.backend.to_str().into(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        features: used.iter().filter(|(f, _)| features.contains(*f)).map(|&(_, name)| name).collect(),
        unusable,
        name: info.name,
    }
}

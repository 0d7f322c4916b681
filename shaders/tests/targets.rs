//! Every variant can be written out for the shading languages of the platforms.

use hotset_shaders::{KERNELS, Variant};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// What kernels may use; those that compute in half precision must say so with `enable f16;`.
const CAPABILITIES: Capabilities = Capabilities::IMMEDIATES
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SHADER_FLOAT16_IN_FLOAT32)
    .union(Capabilities::SHADER_FLOAT16);

fn module(variant: &Variant) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(&variant.wgsl()).expect("validated by the build script");
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .expect("validated by the build script");
    (module, info)
}

fn variants() -> impl Iterator<Item = &'static Variant> {
    KERNELS.iter().copied().flatten()
}

#[test]
fn spirv() {
    for v in variants() {
        let (module, info) = module(v);
        let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = naga::back::spv::write_vec(&module, &info, &options, None);
        assert!(words.is_ok_and(|w| w.len() > 100), "{}", v.name);
    }
}

#[test]
fn metal() {
    for v in variants() {
        let (module, info) = module(v);
        let options = naga::back::msl::Options { lang_version: (2, 4), ..Default::default() };
        let written = naga::back::msl::write_string(&module, &info, &options, &naga::back::msl::PipelineOptions::default());
        match written {
            Ok((text, _)) => assert!(text.contains("kernel void"), "{}", v.name),
            Err(e) => panic!("{}: {e}", v.name),
        }
    }
}

#[test]
fn direct3d() {
    use naga::back::hlsl::{BindTarget, Options, PipelineOptions, ShaderModel, Writer};
    for v in variants() {
        let (module, info) = module(v);
        let immediates_target = Some(BindTarget { space: 1, ..Default::default() });
        let options = Options { shader_model: ShaderModel::V6_2, immediates_target, ..Default::default() };
        let mut text = String::new();
        let pipeline = PipelineOptions::default();
        let written = Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).map(|_| ());
        assert!(written.is_ok() && text.contains("numthreads"), "{}: {written:?}", v.name);
    }
}

#[test]
fn names_are_unique_and_optional_features_stay_where_they_belong() {
    let mut names: Vec<_> = variants().map(|v| v.name).collect();
    for v in variants() {
        assert_eq!(v.wgsl().contains("subgroup_size"), v.name.contains("/Subgroup"), "{}", v.name);
        assert_eq!(v.wgsl().contains("f16;"), v.name.contains("Half/"), "{}", v.name);
    }
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n);
}

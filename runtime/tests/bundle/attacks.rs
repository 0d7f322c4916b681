//! Malice: well-formed files whose header or manifest lies. Every lie is refused by name.

use hotset::bundle::Bundle;

use crate::fixture::{Parts, assemble, refusal, tiny};

/// A place in the manifest, what to put there (any text), and what the refusal must say.
type Lie = (&'static str, &'static str, &'static str);

fn assert_refused(lies: &[Lie], apply: impl Fn(Parts, &str, &str) -> Vec<u8>) {
    let file = tiny();
    let wrong = lies.iter().filter_map(|&(pointer, raw, reason)| {
        let found = refusal(&apply(Parts::of(&file), pointer, raw));
        (!found.contains(reason)).then(|| format!("{raw} at {pointer}: expected {reason:?}, found {found:?}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The edit itself must not be what is refused.
#[test]
fn taking_a_file_apart_and_putting_it_together_changes_nothing() {
    let file = tiny();
    Bundle::from_bytes(&Parts::of(&file).with_manifest("/plan/width", "32")).unwrap().verify(|_| ()).unwrap();
    Bundle::from_bytes(&Parts::of(&file).with_header("/experts.0/dtype", "\"U8\"")).unwrap().verify(|_| ()).unwrap();
}

#[test]
fn versions() {
    assert_refused(
        &[
            ("/format", "2", "format: 2 is newer than this reader's 1; update hotset"),
            ("/format", "0", "format: there is no version 0"),
            ("/format", "-1", "manifest: format: invalid value"),
            ("/format", "1.0", "manifest: format: invalid type"),
            ("/format", "\"1\"", "manifest: format: invalid type"),
            ("/plan/version", "2", "plan.version: 2 is newer"),
            ("/plan/version", "4294967295", "plan.version: 4294967295 is newer"),
            ("/plan/version", "0", "plan.version: there is no version 0"),
        ],
        Parts::with_manifest,
    );
}

/// A newer manifest has fields this reader does not know; it must be called newer, not wrong.
#[test]
fn newer_files_are_called_newer() {
    let mut parts = Parts::of(&tiny());
    parts.manifest["format"] = 7.into();
    assert!(refusal(&parts.with_manifest("/plan/invention", "{}")).contains("format: 7 is newer"));
}

#[test]
fn numbers_of_the_plan() {
    assert_refused(
        &[
            ("/plan/width", "0", "width: 0 is not in"),
            ("/plan/width", "4294967295", "width: 4294967295 is not in"),
            ("/plan/width", "4294967296", "plan.width: invalid value"),
            ("/plan/width", "1e3", "plan.width: invalid type: floating point"),
            ("/plan/width", "33", "embedding.table: matrix \"embedding\" is 48×32, expected 48×33"),
            ("/plan/vocab", "4294967295", "vocab: 4294967295 is not in"),
            ("/plan/context", "0", "context: 0 is not in"),
            ("/plan/context", "4294967295", "context: 4294967295 is not in"),
            ("/plan/embedding/scale", "NaN", "plan.embedding: expected value"),
            ("/plan/embedding/scale", "Infinity", "plan.embedding: expected value"),
            ("/plan/embedding/scale", "1e999", "plan.embedding.scale: number out of range"),
            ("/plan/embedding/scale", "1e39", "embedding.scale: inf is not finite"),
            ("/plan/embedding/scale", "null", "plan.embedding.scale: invalid type: null"),
            ("/plan/head/scale", "-1e39", "head.scale: -inf is not finite"),
            ("/plan/head/norm/layer/eps", "-1.0", "head.norm: eps -1"),
            ("/plan/rotations/0/frequencies", "[]", "rotations[0]: 0 is not in"),
            ("/plan/rotations/0/frequencies", "[1e39]", "rotations[0]: inf is not finite"),
            ("/plan/rotations/0/frequencies", "[1,1,1,1,1,1,1,1,1]", "18 rotated elements in a head of 16"),
            ("/plan/rotations/0/amplitude", "1e39", "rotations[0]: inf is not finite"),
            ("/plan/states/0/kv_heads", "0", "states[0].kv_heads: 0 is not in"),
            ("/plan/states/0/kv_heads", "3", "2 query heads cannot share 3 key heads"),
            ("/plan/states/0/head_dim", "4294967295", "states[0].head_dim: 4294967295 is not in"),
            ("/plan/steps/0/work/attention/heads", "65537", "steps[0] (attention): 65537 is not in"),
            ("/plan/steps/0/work/attention/head_dim", "8", "head_dim 8 but the state's is 16"),
            ("/plan/steps/0/work/attention/scale", "1e39", "steps[0] (attention): inf is not finite"),
            ("/plan/steps/0/work/attention/window", "0", "steps[0] (attention): window 0"),
            ("/plan/steps/0/work/attention/clip", "0", "steps[0] (attention): clip 0"),
            ("/plan/steps/1/work/attention/rotated_first", "true", "steps[1] (routed attention): rotated_first needs a rotation"),
            ("/plan/steps/0/scale", "1e39", "steps[0] (attention): inf is not finite"),
            ("/plan/steps/2/routed/router/weigh/scale", "1e39", "steps[2] (ffn): inf is not finite"),
            ("/plan/steps/2/routed/router/select/rule/top_k/k", "0", "steps[2] (ffn): top-0 of 3 experts"),
            ("/plan/steps/2/routed/router/select/rule/top_k/k", "4", "steps[2] (ffn): top-4 of 3 experts"),
            ("/plan/pools/0/records", "0", "pools[0] (experts): 0 is not in"),
            ("/plan/pools/0/records", "4294967295", "pools[0] (experts): 4294967295 is not in"),
            ("/plan/pools/0/expert/ffn/hidden", "0", "pools[0] (experts): 0 is not in"),
            ("/plan/pools/0/expert/ffn/hidden", "4294967295", "pools[0] (experts): 4294967295 is not in"),
            ("/plan/pools/1/expert/query_output/heads", "65536", "pools[1] (queries): 65536 is not in"),
        ],
        Parts::with_manifest,
    );
}

#[test]
fn references_of_the_plan() {
    assert_refused(
        &[
            ("/plan/embedding/table", "\"absent\"", "embedding.table: there is no matrix \"absent\""),
            ("/plan/embedding/table", "\"norm\"", "embedding.table: there is no matrix \"norm\""),
            ("/plan/embedding/table", "\"experts.0\"", "embedding.table: there is no matrix"),
            ("/plan/head/output/weight", "\"q\"", "head.output: matrix \"q\" is 32×32, expected 48×32"),
            ("/plan/head/output/bias", "\"norm\"", "head.output: vector \"norm\" has 32 elements, expected 48"),
            ("/plan/head/norm/layer/weight", "\"q\"", "head.norm: there is no vector \"q\""),
            ("/plan/steps/0/norm/rms/weight", "\"head_norm\"", "steps[0] (attention): vector \"head_norm\" has 16"),
            ("/plan/steps/0/work/attention/rotation", "1", "steps[0] (attention): rotation 1 of 1"),
            ("/plan/steps/0/work/attention/state", "2", "steps[0] (attention): state 2 of 2"),
            ("/plan/steps/0/work/attention/state", "4294967295", "steps[0] (attention): state 4294967295 of 2"),
            ("/plan/steps/1/work/attention/state", "0", "the input is 32 wide, keys are 16"),
            ("/plan/steps/2/routed/pool", "2", "steps[2] (ffn): pool 2 of 2"),
            ("/plan/steps/2/routed/pool", "1", "steps[2] (ffn)"),
            ("/plan/steps/1/routed/pool", "0", "steps[1] (routed attention)"),
            ("/plan/pools/0/alias", "[0, 2, 1]", "pools[0] (experts): alias to record 2 of 2"),
            ("/plan/pools/0/alias", "[4294967295]", "pools[0] (experts): alias to record 4294967295 of 2"),
            ("/plan/pools/0/alias", "[]", "pools[0] (experts): 0 aliases"),
            ("/plan/pools/0/alias", "[0, 1]", "steps[2] (ffn): matrix \"router\" is 3×32, expected 2×32"),
        ],
        Parts::with_manifest,
    );
}

#[test]
fn a_state_has_one_owner() {
    let parts = Parts::of(&tiny());
    let step = parts.manifest["plan"]["steps"][1].to_string();
    assert!(refusal(&parts.with_manifest("/plan/steps/0", &step)).contains("steps[1].state: state 1 already belongs to step 0"));
}

#[test]
fn structure_of_the_manifest() {
    assert_refused(
        &[
            ("/plan/steps/0/work", "{\"teleport\":{}}", "plan.steps[0].work: unknown variant `teleport`"),
            ("/plan/steps/0/work", "{}", "plan.steps[0].work"),
            ("/plan/steps/0/extra", "1", "plan.steps[0].extra: unknown field"),
            ("/plan/steps", "{}", "plan.steps: invalid type: map"),
            ("/plan/steps/0", "null", "plan.steps[0]: invalid type: null"),
            ("/plan/pools/0/codec", "\"q2\"", "plan.pools[0].codec: unknown variant `q2`"),
            ("/plan/pools/0/codec", "\"q4\",\"codec\":\"q8\"", "plan.pools[0]: duplicate field `codec`"),
            ("/plan/pools/0/name", "\"queries\"", "header: "),
            ("/tensors/norm", "{\"vector\":{\"len\":32}},\"norm\":{\"vector\":{\"len\":32}}", "\"norm\" appears twice"),
            ("/tensors/q/matrix/codec", "7", "tensors.q.matrix.codec"),
            ("/tensors/extra", "{\"vector\":{\"len\":4}}", "header: 18 tensors, the manifest implies 19"),
            ("/tensors/extra", "{\"vector\":{\"len\":0}}", "tensors.extra: Vector { len: 0 } is empty or too large"),
            ("/tensors/extra", "{\"vector\":{\"len\":4294967295}}", "tensors.extra: Vector"),
            ("/tensors/extra", "{\"matrix\":{\"rows\":4294967295,\"cols\":4294967295,\"codec\":\"f32\"}}", "tensors.extra: Matrix"),
            ("/tensors/extra", "{\"matrix\":{\"rows\":0,\"cols\":1,\"codec\":\"f32\"}}", "tensors.extra: Matrix"),
            ("/tensors/tokenizer.json", "{\"vector\":{\"len\":4}}", "tensors.tokenizer.json: the name is reserved"),
            ("/tensors/hotset.padding", "{\"vector\":{\"len\":4}}", "tensors.hotset.padding: the name is reserved"),
            ("/text", "null", "text: tokenizer settings and tokenizer come together"),
            ("/text/eos", "[-1]", "text.eos[0]: invalid value"),
            ("/hashes/dense", "1", "hashes.dense: invalid type"),
            ("/provenance", "[]", "provenance"),
        ],
        Parts::with_manifest,
    );
}

#[test]
fn tensors_of_the_header() {
    assert_refused(
        &[
            ("/experts.0", "null", "header: experts.0: invalid type: null"),
            ("/experts.0/dtype", "\"F32\"", "header: \"experts.0\" is"),
            ("/experts.0/dtype", "\"BF16\"", "header: experts.0.dtype: unknown variant `BF16`"),
            ("/experts.0/shape", "[]", "header: experts.0.shape: invalid length 0"),
            ("/experts.0/shape", "[4096, 4]", "header: experts.0.shape"),
            ("/experts.0/shape", "[18446744073709551615]", "header: \"experts.0\" is"),
            ("/experts.0/shape", "[-1]", "header: experts.0.shape[0]: invalid value"),
            ("/experts.0/data_offsets", "[0, 18446744073709551615]", "header: \"experts.0\" is"),
            ("/experts.0/data_offsets", "[18446744073709551615, 0]", "header: \"experts.0\" is"),
            ("/experts.0/data_offsets", "[0]", "header: experts.0.data_offsets: invalid length 1"),
            ("/experts.0/data_offsets", "[0, 16384]", "header: \"experts.0\" is"),
            ("/experts.0/strides", "[1]", "header: experts.0.strides: unknown field"),
            ("/experts.2", "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", "header: 19 tensors, the manifest implies 18"),
            ("/tokenizer.json/shape", "[18446744073709551615]", "tokenizer.json: 18446744073709551615 bytes, the file has"),
            ("/tokenizer.json/shape", "[1]", "header: "),
            ("/__metadata__/hotset", "7", "header: __metadata__.hotset: invalid type"),
            ("/__metadata__/hotset", "\"\"", "manifest: EOF"),
            ("/__metadata__", "[]", "header: __metadata__: invalid type"),
        ],
        Parts::with_header,
    );
}

#[test]
fn overlaps_and_holes() {
    let file = tiny();
    let swap = |a: &str, b: &str| {
        let mut parts = Parts::of(&file);
        let (x, y) = (parts.header[a].clone(), parts.header[b].clone());
        (parts.header[a], parts.header[b]) = (y, x);
        refusal(&assemble(&Parts::header_text(parts), &Parts::of(&file).data))
    };
    assert!(swap("experts.0", "experts.1").contains("header: \"experts.0\" is"));
    assert!(swap("q", "experts.0").contains("header: "));
    // A hole: everything after the first record moves by a block.
    let mut parts = Parts::of(&file);
    for name in ["experts.1", "queries.0"] {
        for i in 0..2 {
            let offset = parts.header[name]["data_offsets"][i].as_u64().unwrap();
            parts.header[name]["data_offsets"][i] = (offset + 16384).into();
        }
    }
    let mut data = parts.data.clone();
    data.resize(data.len() + 16384, 0);
    assert!(refusal(&assemble(&parts.header_text(), &data)).contains("header: \"experts.1\" is"));
}

#[test]
fn twice_the_same_key() {
    let text = Parts::of(&tiny()).header_text();
    let data = Parts::of(&tiny()).data;
    for (key, value) in [("experts.0", r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#), ("__metadata__", r#"{"hotset":"{}"}"#)] {
        let twice = text.replacen('{', &format!("{{\"{key}\":{value},"), 1);
        assert!(refusal(&assemble(&twice, &data)).contains(&format!("\"{key}\" appears twice")));
    }
    let twice = text.replacen("{\"hotset\":", "{\"hotset\":\"{}\",\"hotset\":", 1);
    assert!(refusal(&assemble(&twice, &data)).contains("\"hotset\" appears twice"));
}

/// Nesting must not overflow the stack, in the header or in the manifest inside it.
#[test]
fn deep_nesting() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(100_000);
        for (file, reason) in [
            (assemble(&format!("{{\"experts.0\":{deep}"), &[]), "header: experts.0"),
            (Parts::of(&tiny()).with_manifest("/plan/steps/0", &deep), "manifest: plan.steps"),
            (Parts::of(&tiny()).with_manifest("/provenance/invention", &deep), "manifest: "),
        ] {
            let found = refusal(&file);
            assert!(found.contains(reason), "{found}");
        }
    }
}

/// Pools may promise far more records than memory could list. The allocator of this test program refuses large requests.
#[test]
fn promises_of_many_records() {
    let pool = r#"{"name":"p","expert":{"ffn":{"hidden":16,"gated":true,"activation":"silu"}},"codec":"q4","records":65536}"#;
    let pools = vec![pool; 16384].join(",");
    let found = refusal(&Parts::of(&tiny()).with_manifest("/plan/pools", &format!("[{pools},{pool}]")));
    assert!(found.contains("pools: 16385 entries"), "{found}");
    let mut parts = Parts::of(&tiny());
    let kept = parts.manifest["plan"]["pools"].as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let found = refusal(&parts.with_manifest("/plan/pools", &format!("[{kept},{}]", vec![pool; 16000].join(","))));
    assert!(found.contains("pools: 1048576"), "{found}");
    parts = Parts::of(&tiny());
    parts.manifest["plan"]["pools"][0]["records"] = 65536.into();
    assert!(refusal(&parts.with_header("/experts.0/dtype", "\"U8\"")).contains("the manifest implies"));
}

/// The largest shapes that pass every single cap must not overflow when they are added up.
#[test]
fn shapes_at_every_limit() {
    let mut parts = Parts::of(&tiny());
    parts.manifest["plan"]["pools"][0]["expert"]["ffn"]["hidden"] = (1 << 20).into();
    parts.manifest["plan"]["pools"][0]["codec"] = "f32".into();
    parts.manifest["plan"]["pools"][0]["records"] = 65536.into();
    let mut many = serde_json::Map::new();
    for i in 0..100 {
        many.insert(format!("x{i}"), serde_json::json!({ "matrix": { "rows": 1u32 << 31, "cols": 32, "codec": "f32" } }));
    }
    parts.manifest["tensors"].as_object_mut().unwrap().extend(many);
    assert!(refusal(&parts.with_header("/experts.0/dtype", "\"U8\"")).contains("the manifest implies"));
}

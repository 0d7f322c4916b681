// The repetition penalty: listed tokens' logits are divided by it when positive, multiplied when negative.
#import latch
struct Params {
    count: u32,
    penalty: f32,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> tokens: array<u32>; // [count], unique
@group(0) @binding(1) var<storage, read_write> logits: array<f32>; // [V]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if stalled() {
        return;
    }
    for (var i = at.x; i < params.count; i += 64u * groups.x) {
        let v = logits[tokens[i]];
        logits[tokens[i]] = select(v * params.penalty, v / params.penalty, v > 0.0);
    }
}

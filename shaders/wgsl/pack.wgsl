// Moves the heads' parts of a row together or apart: a workgroup per token and head.
#import latch

struct Params {
    width: u32, // elements of a head that are moved
    from_head: u32, // between heads
    from_token: u32, // between tokens
    to_head: u32,
    to_token: u32,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> before: array<f32>; // [tokens, heads, from_head]
@group(0) @binding(1) var<storage, read_write> after: array<f32>; // [tokens, heads, to_head]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    for (var i = lane; i < params.width; i += 64u) {
        after[group.y * params.to_token + group.x * params.to_head + i] =
            before[group.y * params.from_token + group.x * params.from_head + i];
    }
}

// Adds up what the routes of a token project: a workgroup per token and 64 vec4.
#import latch

struct Params {
    routes: u32, // entries of a token
    stride: u32, // of all rows, in vec4
    weighted: u32, // 1: each times its weight
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> rows: array<vec4f>; // [tokens, routes, stride]
@group(0) @binding(1) var<storage, read> ids: array<u32>; // [tokens, routes]: expert of each route, or NOBODY
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [tokens, routes]
@group(0) @binding(3) var<storage, read_write> sums: array<vec4f>; // [tokens, stride]

const NOBODY = 0xffffffffu;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let i = group.x * 64u + lane;
    if i >= params.stride {
        return;
    }
    var sum = vec4f(0.0);
    for (var r = group.y * params.routes; r < (group.y + 1u) * params.routes; r++) {
        if ids[r] != NOBODY {
            sum += select(1.0, weights[r], params.weighted == 1u) * rows[r * params.stride + i];
        }
    }
    sums[group.y * params.stride + i] = sum;
}

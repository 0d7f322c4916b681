// Combines the splits of a query head, newest first: a workgroup per query head and set.
#import latch
struct Params {
    heads: u32,
    head_dim: u32,
    splits: u32,
    out_stride: u32, // between query sets in `mixed`
    out_head: u32, // between heads there
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> parts: array<f32>; // [tokens, routes, H, splits, h], see `attend`
@group(0) @binding(1) var<storage, read> stats: array<vec2f>; // [tokens, routes, H, splits]
@group(0) @binding(2) var<storage, read_write> mixed: array<f32>; // [tokens, routes, padded H·h]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let first = (group.y * params.heads + group.x) * params.splits;
#ifdef KIND_SOFTMAX
    var top = stats[first].x;
    for (var s = 1u; s < params.splits; s++) {
        top = max(top, stats[first + s].x);
    }
#endif
    for (var d = lane; d < params.head_dim; d += 64u) {
        var sum = 0.0;
        var left = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            let part = parts[(first + s) * params.head_dim + d];
            let state = stats[first + s];
#ifdef KIND_SOFTMAX
            // `left` is the denominator here.
            let factor = exp(state.x - top);
            sum += factor * part;
            left += factor * state.y;
#else
            sum += exp(left) * part;
            left += state.x;
#endif
        }
#ifdef KIND_SOFTMAX
        // A route without an expert has seen nothing.
        sum = select(sum / left, 0.0, left == 0.0);
#endif
        mixed[group.y * params.out_stride + group.x * params.out_head + d] = sum;
    }
}

// A gated short convolution over tokens: a workgroup per token and 64 elements.
// y = c ⊙ (Σ kernel[j] ⊙ u of the token taps - 1 - j before + bias) with u = b ⊙ x; u of the batch's tokens goes into the cache.
#import latch

const NONE = 0xffffffffu;

struct Params {
    width: u32, // D
    taps: u32,
    stride: u32, // of `projected`, between tokens
    y_stride: u32, // of `y`
    row: u32, // of the cache
    kernel: u32, // in `vectors`
    bias: u32, // likewise, or NONE
    position: u32, // of token 0
    capacity: u32, // rows of the cache
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> vectors: array<f32>;
@group(0) @binding(1) var<storage, read> projected: array<f32>; // [tokens, stride]: b, c, x
@group(0) @binding(2) var<storage, read_write> cache: array<f32>; // [capacity, row]: u
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [tokens, padded D]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let d = group.x * 64u + lane;
    if d >= params.width {
        return;
    }
    let token = group.y;
    let position = params.position + token;
    var sum = 0.0;
    if params.bias != NONE {
        sum = vectors[params.bias + d];
    }
    for (var back = 0u; back < min(params.taps, position + 1u); back++) {
        // Tokens before the batch are in the cache; its rows hold more than the taps reach while the batch is written.
        var u = 0.0;
        if back <= token {
            u = gated(token - back, d);
        } else {
            u = cache[(position - back) % params.capacity * params.row + d];
        }
        sum += u * vectors[params.kernel + (params.taps - 1u - back) * params.width + d];
    }
    cache[position % params.capacity * params.row + d] = gated(token, d);
    y[token * params.y_stride + d] = sum * projected[token * params.stride + params.width + d];
}

fn gated(token: u32, d: u32) -> f32 {
    let at = token * params.stride + d;
    return projected[at] * projected[at + 2u * params.width];
}

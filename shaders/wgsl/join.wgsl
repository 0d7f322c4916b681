// What joins the parts of a step and prepares the next one: a workgroup per token.
// x += scale · (Σ weight · routed + σ(gate) · dense + bias), then a = norm(x). Each part may be absent; x may be replaced instead.
#import latch
const LANES = 256u;
#import sum_max

const NONE = 0xffffffffu;
const RMS = 1u;
const LAYER = 2u;

struct Params {
    width: u32, // D
    stride: u32, // of all rows, in vec4
    first: u32, // first token
    joins: u32, // 0: only normalise; 1: add; 2: replace
    prepares: u32, // 0: leave a alone
    routes: u32, // per token, 0 when nothing is routed
    dense: u32, // 1 when there is a dense part
    gate: u32, // of token 0 in `gates`, or NONE
    gate_stride: u32,
    bias: u32, // in `vectors`, in vec4, or NONE
    scale: f32,
    norm: u32, // 0: a is a copy of x
    norm_weight: u32, // in `vectors`, in vec4
    norm_bias: u32, // likewise, or NONE
    eps: f32,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> vectors: array<vec4f>;
@group(0) @binding(1) var<storage, read> routed: array<vec4f>; // [tokens, routes, padded D]
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [tokens, routes]
@group(0) @binding(3) var<storage, read> dense: array<vec4f>; // [tokens, padded D]
@group(0) @binding(4) var<storage, read> gates: array<f32>;
@group(0) @binding(5) var<storage, read_write> x: array<vec4f>; // [tokens, padded D], a stream
@group(0) @binding(6) var<storage, read_write> a: array<vec4f>; // [tokens, padded D], the next step's input

@compute @workgroup_size(256)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let token = params.first + group.x;
    let row = token * params.stride;
    let n = (params.width + 3u) / 4u;
    var gate = 1.0;
    if params.gate != NONE {
        gate = 1.0 / (1.0 + exp(-gates[params.gate + token * params.gate_stride]));
    }
    var sums = vec4f(0.0);
    var squares = vec4f(0.0);
    for (var i = lane.index; i < n; i += LANES) {
        var v = x[row + i];
        if params.joins != 0u {
            var y = vec4f(0.0);
            for (var r = 0u; r < params.routes; r++) {
                let route = token * params.routes + r;
                // An entry without an expert weighs nothing, and nobody has written its row.
                if weights[route] != 0.0 {
                    y += weights[route] * routed[route * params.stride + i];
                }
            }
            if params.dense == 1u {
                y += gate * dense[row + i];
            }
            if params.bias != NONE {
                y += vectors[params.bias + i];
            }
            v = select(vec4f(0.0), v, params.joins == 1u) + params.scale * y;
            x[row + i] = v;
        }
        sums += v;
        squares += v * v;
    }
    if params.prepares == 0u {
        return;
    }
    var mean = 0.0;
    var factor = 1.0;
    if params.norm == RMS {
        factor = inverseSqrt(sum_all(lane, dot(squares, vec4f(1.0))) / f32(params.width) + params.eps);
    } else if params.norm == LAYER {
        mean = sum_all(lane, dot(sums, vec4f(1.0))) / f32(params.width);
        var spread = 0.0;
        for (var i = lane.index; i < n; i += LANES) {
            let inside = vec4u(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4u(params.width);
            let d = select(vec4f(0.0), x[row + i] - mean, inside);
            spread += dot(d, d);
        }
        factor = inverseSqrt(sum_all(lane, spread) / f32(params.width) + params.eps);
    }
    for (var i = lane.index; i < n; i += LANES) {
        var v = x[row + i];
        if params.norm != 0u {
            v = (v - mean) * factor * vectors[params.norm_weight + i];
            if params.norm_bias != NONE {
                v += vectors[params.norm_bias + i];
            }
        }
        a[row + i] = v;
    }
}

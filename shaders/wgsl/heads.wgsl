// From projections to queries and cache rows: normalise, clip, rotate, store. A workgroup per token and unit, where a unit is what is
// normalised together: one head, or all heads of a query set, of the keys, of the values.
#import latch
const LANES = 64u;
#import sum_max

const NONE = 0xffffffffu;
const RMS = 1u;
const LAYER = 2u;

struct Norm {
    kind: u32, // 0: none
    full: u32, // 1: over all heads
    weight: u32, // in `vectors`
    bias: u32, // likewise, or NONE
    eps: f32,
}

struct Params {
    heads: u32, // H, of one query set
    kv_heads: u32,
    head_dim: u32,
    head_stride: u32, // head_dim padded to a multiple of 4
    routes: u32, // query sets of a token
    q_stride: u32, // between query sets in `projected`
    k: u32, // first key of token 0 in `projected`
    v: u32, // first value of token 0
    kv_stride: u32, // between tokens
    kv_input: u32, // 1: keys and values are rows of `a`, whose stride is kv_stride
    clip: f32,
    q_norm: Norm,
    k_norm: Norm,
    turns: u32, // of token 0 in `turns`
    pairs: u32, // rotated pairs of a head; 0: no rotation
    position: u32, // of token 0
    capacity: u32, // rows of the cache
    tied: u32, // 1: values are not stored
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> vectors: array<f32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2f>; // [tokens, pairs]: cosine and sine
@group(0) @binding(2) var<storage, read> projected: array<f32>; // queries [tokens, routes, H·h], keys, values, rows padded
@group(0) @binding(3) var<storage, read> a: array<f32>; // [tokens, padded D]
@group(0) @binding(4) var<storage, read_write> queries: array<f32>; // [tokens, routes, H, head_stride]
@group(0) @binding(5) var<storage, read_write> keys: array<f32>; // [capacity, KV, head_stride]
@group(0) @binding(6) var<storage, read_write> values: array<f32>; // [capacity, KV, head_stride]

const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let token = group.y;
    let q_units = select(params.heads, 1u, params.q_norm.full == 1u) * params.routes;
    let k_units = select(params.kv_heads, 1u, params.k_norm.full == 1u);

    // What this unit is, where it comes from, how many heads it has.
    var unit = group.x;
    var role = QUERY;
    var norm = params.q_norm;
    var heads = params.heads;
    if unit >= q_units {
        unit -= q_units;
        role = KEY;
        norm = params.k_norm;
        heads = params.kv_heads;
        if unit >= k_units {
            unit -= k_units;
            role = VALUE;
            norm = Norm(0u, 0u, 0u, NONE, 0.0);
        }
    }
    let per_set = select(heads, 1u, norm.full == 1u);
    let row_set = token * params.routes + unit / per_set;
    let span = select(1u, heads, norm.full == 1u);
    let first = unit % per_set;
    var base = first * params.head_dim;
    var to = first * params.head_stride;
    switch role {
        case QUERY: {
            base += row_set * params.q_stride;
            to += row_set * heads * params.head_stride;
        }
        default: {
            base += token * params.kv_stride + select(params.v, params.k, role == KEY);
            to += (params.position + token) % params.capacity * heads * params.head_stride;
        }
    }
    let input = role != QUERY && params.kv_input == 1u;

    let n = span * params.head_dim;
    var mean = 0.0;
    var factor = 1.0;
    if norm.kind == LAYER {
        var sum = 0.0;
        for (var i = lane.index; i < n; i += LANES) {
            sum += element(base + i, input);
        }
        mean = sum_all(lane, sum) / f32(n);
    }
    if norm.kind != 0u {
        var spread = 0.0;
        for (var i = lane.index; i < n; i += LANES) {
            let d = element(base + i, input) - mean;
            spread += d * d;
        }
        factor = inverseSqrt(sum_all(lane, spread) / f32(n) + norm.eps);
    }

    for (var i = lane.index; i < span * params.head_stride; i += LANES) {
        let head = i / params.head_stride * params.head_dim;
        let d = i % params.head_stride;
        var v = 0.0;
        if d < params.head_dim {
            v = (element(base + head + d, input) - mean) * factor;
            v = gain(norm, head + d, v);
            if role != VALUE && d < 2u * params.pairs {
                let low = d < params.pairs;
                let other = head + select(d - params.pairs, d + params.pairs, low);
                let w = gain(norm, other, (element(base + other, input) - mean) * factor);
                let turn = turns[params.turns + token * params.pairs + select(d - params.pairs, d, low)];
                v = v * turn.x + select(w, -w, low) * turn.y;
            }
        }
        switch role {
            case QUERY: { queries[to + i] = v; }
            case KEY: { keys[to + i] = v; }
            default: { values[to + i] = v; }
        }
    }
}

fn element(at: u32, input: bool) -> f32 {
    if input {
        return a[at];
    }
    return projected[at];
}

// The normalised and clipped element from its centred and scaled value; `at` counts from the unit's first.
fn gain(norm: Norm, at: u32, v: f32) -> f32 {
    var y = v;
    if norm.kind != 0u {
        y *= vectors[norm.weight + at];
        if norm.bias != NONE {
            y += vectors[norm.bias + at];
        }
    }
    return clamp(y, -params.clip, params.clip);
}

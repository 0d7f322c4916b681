// From projections to queries and cache rows: normalise, clip, rotate (or rotate, normalise, clip), store. A workgroup per token and unit, where a unit is what is
// normalised together: one head, or all heads of a query set, of the keys, of the values. Where routes have keys of their own, each stands
// for a token.
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
    routes: u32, // query sets of a token
    q_stride: u32, // between query sets in `projected`
    k: u32, // first key of token 0 in `projected`
    v: u32, // first value of token 0
    kv_stride: u32, // between tokens
    kv_input: u32, // 1: keys and values are rows of `other`
    other_stride: u32, // of `other`, between tokens
    share: u32, // routes of a token where each has keys of its own, else 1
    rows: u32, // where it has: first entry of the routes in `other`
    rank: u32, // of a latent: elements of a head that are neither rotated nor a query's own; 0: none
    plain: u32, // of a latent: elements of a query that were mapped to it
    clip: f32,
    q_norm: Norm,
    k_norm: Norm,
    turns: u32, // of token 0 in `turns`
    pairs: u32, // rotated pairs of a head, behind `rank`; 0: no rotation
    turned_first: u32, // 1: rotation comes before norm and clip; norms are over each head then
    position: u32, // of token 0
    capacity: u32, // rows of the cache
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> vectors: array<f32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2f>; // [tokens, pairs]: cosine and sine
@group(0) @binding(2) var<storage, read> projected: array<f32>; // queries [tokens, routes, H·h], keys, values, rows padded
// [tokens, padded D], the step's input that serves as keys; or [tokens, H, plain + rotated], queries before a latent; or rows of routes,
// see `append`.
@group(0) @binding(3) var<storage, read> other: array<u32>;
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
    let head_stride = (params.head_dim + 3u) / 4u * 4u;
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
    var source = Source(first * params.head_dim, 0u, params.head_dim, false);
    var to = first * head_stride;
    if role == QUERY {
        source.base += row_set * params.q_stride;
        to += row_set * params.heads * head_stride;
        if params.rank > 0u {
            source.base = row_set * params.q_stride + first * ((params.rank + 15u) / 16u * 16u);
            source.rest = token * params.other_stride + first * (params.plain + params.head_dim - params.rank) + params.plain;
            source.inner = params.rank;
        }
    } else {
        var row = (params.position + token) % params.capacity;
        if params.rows != NONE {
            row = other[params.rows + 3u * token + 2u];
            if row == NONE {
                return;
            }
        }
        to += row * params.kv_heads * head_stride;
        source.input = params.kv_input == 1u;
        source.base += select(token * params.kv_stride + select(params.v, params.k, role == KEY), token * params.other_stride, source.input);
    }

    let n = select(span * params.head_dim, params.rank, params.rank > 0u);
    let turn = params.turns + token / params.share * params.pairs;
    let before = role != VALUE && params.turned_first == 1u;
    let after = role != VALUE && params.turned_first == 0u;
    var mean = 0.0;
    var factor = 1.0;
    if norm.kind == LAYER {
        var sum = 0.0;
        for (var i = lane.index; i < n; i += LANES) {
            sum += turned(source, i, before, turn);
        }
        mean = sum_all(lane, sum) / f32(n);
    }
    if norm.kind != 0u {
        var spread = 0.0;
        for (var i = lane.index; i < n; i += LANES) {
            let d = turned(source, i, before, turn) - mean;
            spread += d * d;
        }
        factor = inverseSqrt(sum_all(lane, spread) / f32(n) + norm.eps);
    }

    for (var i = lane.index; i < span * head_stride; i += LANES) {
        let head = i / head_stride * params.head_dim;
        let d = i % head_stride;
        var v = 0.0;
        if d < params.head_dim {
            v = gain(norm, n, head + d, turned(source, head + d, before, turn), mean, factor);
            if after && turns_at(d) {
                let partner = partner_of(d);
                v = rotate(d, v, gain(norm, n, head + partner, element(source, head + partner), mean, factor), turn);
            }
        }
        switch role {
            case QUERY: { queries[to + i] = v; }
            case KEY: { keys[to + i] = v; }
            default: { values[to + i] = v; }
        }
    }
}

// Where a unit's elements are.
struct Source {
    base: u32, // of the first, in `projected`, or in `other` where `input` is set
    rest: u32, // in `other`: of the first one that is not among the `inner` ones
    inner: u32,
    input: bool,
}

fn element(source: Source, at: u32) -> f32 {
    if source.input {
        return bitcast<f32>(other[source.base + at]);
    }
    if params.rank > 0u && at >= source.inner {
        return bitcast<f32>(other[source.rest + at - source.inner]);
    }
    return projected[source.base + at];
}

// The element, of a single head and rotated where that comes first.
fn turned(source: Source, at: u32, first: bool, turn: u32) -> f32 {
    let v = element(source, at);
    if !first || !turns_at(at) {
        return v;
    }
    return rotate(at, v, element(source, partner_of(at)), turn);
}

// Whether element `d` of a head is rotated.
fn turns_at(d: u32) -> bool {
    return d >= params.rank && d < params.rank + 2u * params.pairs;
}

// What element `d` is rotated with.
fn partner_of(d: u32) -> u32 {
    return select(d - params.pairs, d + params.pairs, d - params.rank < params.pairs);
}

// Element `d` of a head, `v`, rotated with its partner `w`; `turn`: the token's first cosine and sine.
fn rotate(d: u32, v: f32, w: f32, turn: u32) -> f32 {
    let pair = d - params.rank;
    let low = pair < params.pairs;
    let t = turns[turn + select(pair - params.pairs, pair, low)];
    return v * t.x + select(w, -w, low) * t.y;
}

// The normalised and clipped element; `at` counts from the unit's first, of which `n` are normalised.
fn gain(norm: Norm, n: u32, at: u32, v: f32, mean: f32, factor: f32) -> f32 {
    var y = v;
    if norm.kind != 0u && at < n {
        y = (v - mean) * factor * vectors[norm.weight + at];
        if norm.bias != NONE {
            y += vectors[norm.bias + at];
        }
    }
    return clamp(y, -params.clip, params.clip);
}

// Attention of one query head over one split of the visible keys, newest first, in blocks of 256.
// A workgroup per query head, split and query row_set. With one split the result is final, else `merge` follows.
#import latch
const LANES = 64u;
#import sum_max

const BLOCK = 256u;
const NONE = 0xffffffffu;

struct Params {
    heads: u32, // H
    share: u32, // query heads of a key head
    head_dim: u32,
    head_stride: u32, // in vec4
    value_dim: u32, // leading elements of a value that are mixed
    kv_heads: u32,
    routes: u32, // query sets of a token
    routed: u32, // 1: they are routes, some of which may have no expert
    position: u32, // of token 0
    capacity: u32, // rows of a ring
    window: u32, // keys a query sees at most
    splits: u32,
    split: u32, // keys of a split
    scale: f32,
    out_stride: u32, // between query sets in `mixed`
    out_head: u32, // between heads and splits there
    sinks: u32, // in `vectors`, or NONE
    entries: u32, // listed: first entry of the routes in `index`
    lists: u32, // listed: first list of `index`, or NONE when rows are rings
    least: f32, // stick-breaking stops when the logarithm of what is left is below
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> queries: array<vec4f>; // [tokens, routes, H, head_stride]
@group(0) @binding(1) var<storage, read> keys: array<vec4f>; // [capacity, KV, head_stride]
@group(0) @binding(2) var<storage, read> values: array<vec4f>; // [capacity, KV, head_stride]
@group(0) @binding(3) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read> index: array<u32>; // [tokens, routes]: expert of each route, or NONE. Listed: see `append`
@group(0) @binding(5) var<storage, read_write> mixed: array<f32>; // [tokens, routes, H, splits, h]
@group(0) @binding(6) var<storage, read_write> stats: array<vec2f>; // [tokens, routes, H, splits]: maximum and sum, or log left

var<workgroup> scores: array<f32, BLOCK>; // logits, then weights, of the block's keys
var<workgroup> slices: array<vec4f, LANES>; // [slices, wide]: what each slice of the keys mixes

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let head = group.x / params.splits;
    let split = group.x % params.splits;
    let row_set = group.y;
#ifdef ROWS_LISTED
    let entry = params.entries + 3u * row_set;
    let idle = index[entry + 2u] == NONE;
    list = index[entry];
    let position = index[entry + 1u];
#else
    let idle = params.routed == 1u && index[row_set] == NONE;
    let position = params.position + row_set / params.routes;
#endif
    // A route without an expert sees nothing, which `merge` is told.
    if idle && params.splits == 1u {
        return;
    }
    let visible = select(min(position + 1u, params.window), 0u, idle);
    let kv = head / params.share;
    let query = (row_set * params.heads + head) * params.head_stride;
    let to = row_set * params.out_stride + (head * params.splits + split) * params.out_head;
    let end = min(visible, (split + 1u) * params.split);

    // Softmax: x the largest logit, y the sum of exp(logit - x). Stick-breaking: x the logarithm of what is left.
#ifdef KIND_SOFTMAX
    // A sink is a key that brings no value.
    var state = vec2f(-3.4028234e38, 0.0);
    if params.sinks != NONE && split == 0u {
        state = vec2f(vectors[params.sinks + head], 1.0);
    }
#else
    var state = vec2f(0.0);
#endif
    var any = false;
    for (var start = split * params.split; start < end; start += BLOCK) {
        let count = min(BLOCK, end - start);
        score(lane.index, position - start, count, query, kv);
        workgroupBarrier();
        let before = weigh(lane, count, &state);
        mix(lane.index, position - start, count, kv, to, select(0.0, before, any));
        any = true;
#ifdef KIND_STICKBREAKING
        if state.x < params.least {
            break;
        }
#endif
    }
    if params.splits > 1u {
        for (var d = lane.index; d < params.value_dim && !any; d += LANES) {
            mixed[to + d] = 0.0;
        }
        if lane.index == 0u {
            stats[(row_set * params.heads + head) * params.splits + split] = state;
        }
    } else {
#ifdef KIND_SOFTMAX
        divide(lane.index, to, state.y);
#endif
    }
}

#ifdef ROWS_LISTED
// Where the list of the route's expert begins among all lists.
var<private> list: u32;

// Row of the cache that place `at` of the list names.
fn row_of(at: u32) -> u32 {
    if params.lists == NONE {
        return list + at % params.capacity;
    }
    return index[params.lists + list + at];
}
#else
fn row_of(position: u32) -> u32 {
    return position % params.capacity;
}
#endif

// Logits of the block's keys, `newest` being the first. A lane has every 64th key, up to four, and reads the query once for all.
fn score(lane: u32, newest: u32, count: u32, query: u32, kv: u32) {
    var rows: vec4u;
    for (var j = 0u; j < 4u; j++) {
        // What is past the block's end repeats its last key and is not stored.
        let i = min(lane + j * LANES, count - 1u);
        rows[j] = (row_of(newest - i) * params.kv_heads + kv) * params.head_stride;
    }
    var sum = mat4x4f();
    for (var d = 0u; d < params.head_stride; d++) {
        let q = queries[query + d];
        sum[0] += q * keys[rows.x + d];
        if count > LANES {
            sum[1] += q * keys[rows.y + d];
        }
        if count > 2u * LANES {
            sum[2] += q * keys[rows.z + d];
            sum[3] += q * keys[rows.w + d];
        }
    }
    let logits = vec4f(1.0) * sum * params.scale;
    for (var j = 0u; j < 4u; j++) {
        if lane + j * LANES < count {
            scores[lane + j * LANES] = logits[j];
        }
    }
}

// Adds the block's weighted values to what was mixed `before`. A lane has four elements of the head and a slice of the keys.
fn mix(lane: u32, newest: u32, count: u32, kv: u32, to: u32, before: f32) {
    let length = (params.value_dim + 3u) / 4u;
    let wide = min(length, LANES);
    let share = LANES / wide;
    let slice = lane / wide;
    for (var first = 0u; first < length; first += wide) {
        let d = first + lane % wide;
        var sum = vec4f(0.0);
        if slice < share && d < length {
#ifdef ROWS_LISTED
            for (var i = slice; i < count; i += share) {
                sum += scores[i] * values[(row_of(newest - i) * params.kv_heads + kv) * params.head_stride + d];
            }
#else
            // Older keys are above newer ones in the ring, wrapping at its start.
            var row = row_of(newest - min(slice, newest));
            for (var i = slice; i < count; i += share) {
                sum += scores[i] * values[(row * params.kv_heads + kv) * params.head_stride + d];
                row = select(row - share, row + params.capacity - share, row < share);
            }
#endif
        }
        slices[lane] = sum;
        workgroupBarrier();
        if slice == 0u && d < length {
            for (var s = 1u; s < share; s++) {
                sum += slices[s * wide + lane];
            }
            for (var e = 4u * d; e < min(4u * d + 4u, params.value_dim); e++) {
                if before != 0.0 {
                    sum[e & 3u] += before * mixed[to + e];
                }
                mixed[to + e] = sum[e & 3u];
            }
        }
        workgroupBarrier();
    }
}

// Divides the result, each element in the lane that wrote it.
fn divide(lane: u32, to: u32, divisor: f32) {
    let length = (params.value_dim + 3u) / 4u;
    let wide = min(length, LANES);
    for (var d = lane; d < length && lane < wide; d += wide) {
        for (var e = 4u * d; e < min(4u * d + 4u, params.value_dim); e++) {
            mixed[to + e] /= divisor;
        }
    }
}

// Turns the block's logits into weights and advances `state`; returns the factor of what was mixed before.
#ifdef KIND_SOFTMAX
fn weigh(lane: Lane, count: u32, state: ptr<function, vec2f>) -> f32 {
    var mine = (*state).x;
    for (var i = lane.index; i < count; i += LANES) {
        mine = max(mine, scores[i]);
    }
    let top = max_all(lane, mine);
    let before = exp((*state).x - top);
    var sum = 0.0;
    for (var i = lane.index; i < count; i += LANES) {
        let p = exp(scores[i] - top);
        scores[i] = p;
        sum += p;
    }
    *state = vec2f(top, (*state).y * before + sum_all(lane, sum));
    return before;
}
#else
var<workgroup> lefts: array<f32, LANES>;

fn weigh(lane: Lane, count: u32, state: ptr<function, vec2f>) -> f32 {
    // Four consecutive keys to a lane; what newer lanes leave is summed from shared memory in order.
    let base = lane.index * 4u;
    let to = min(base + 4u, count);
    var mine = 0.0;
    for (var i = base; i < to; i++) {
        mine -= softplus(scores[i]);
    }
    lefts[lane.index] = mine;
    workgroupBarrier();
    var left = (*state).x;
    for (var i = 0u; i < lane.index; i++) {
        left += lefts[i];
    }
    var after = left + mine;
    for (var i = base; i < to; i++) {
        let l = scores[i];
        let keep = softplus(l);
        scores[i] = exp(left + l - keep);
        left -= keep;
    }
    for (var i = lane.index + 1u; i < LANES; i++) {
        after += lefts[i];
    }
    workgroupBarrier();
    *state = vec2f(after, 0.0);
    return 1.0;
}

// log(1 + exp(l)), without overflow.
fn softplus(l: f32) -> f32 {
    return max(l, 0.0) + log(1.0 + exp(-abs(l)));
}
#endif

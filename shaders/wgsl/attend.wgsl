// Attention of one query head over one split of the visible keys, newest first, in blocks of 256.
// A workgroup per query head, split and query row_set. With one split the result is final, else `merge` follows.
const LANES = 64u;
#import sum_max

const BLOCK = 256u;

struct Params {
    heads: u32, // H
    share: u32, // query heads of a key head
    head_dim: u32,
    head_stride: u32, // in vec4
    kv_heads: u32,
    routes: u32, // query sets of a token
    position: u32, // of token 0
    capacity: u32, // rows of the cache
    window: u32, // keys a query sees at most
    splits: u32,
    split: u32, // keys of a split
    scale: f32,
    out_stride: u32, // between query sets in `mixed`
    least: f32, // stick-breaking stops when the logarithm of what is left is below
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> queries: array<vec4f>; // [tokens, routes, H, head_stride]
@group(0) @binding(1) var<storage, read> keys: array<vec4f>; // [capacity, KV, head_stride]
@group(0) @binding(2) var<storage, read> values: array<f32>; // [capacity, KV, head_stride]
@group(0) @binding(3) var<storage, read_write> mixed: array<f32>; // [tokens, routes, H, splits, h]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2f>; // [tokens, routes, H, splits]: maximum and sum, or log left

var<workgroup> scores: array<f32, BLOCK>; // logits, then weights, of the block's keys

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    let head = group.x / params.splits;
    let split = group.x % params.splits;
    let row_set = group.y;
    let position = params.position + row_set / params.routes;
    let visible = min(position + 1u, params.window);
    let kv = head / params.share;
    let query = (row_set * params.heads + head) * params.head_stride;
    let to = row_set * params.out_stride + (head * params.splits + split) * params.head_dim;
    let end = min(visible, (split + 1u) * params.split);

    // Softmax: x the largest logit, y the sum of exp(logit - x). Stick-breaking: x the logarithm of what is left.
#ifdef KIND_SOFTMAX
    var state = vec2f(-3.4028234e38, 0.0);
#else
    var state = vec2f(0.0);
#endif
    var any = false;
    for (var start = split * params.split; start < end; start += BLOCK) {
        let count = min(BLOCK, end - start);
        for (var i = lane.index; i < count; i += LANES) {
            let row = ((position - start - i) % params.capacity * params.kv_heads + kv) * params.head_stride;
            var sum = vec4f(0.0);
            for (var d = 0u; d < params.head_stride; d++) {
                sum += queries[query + d] * keys[row + d];
            }
            scores[i] = dot(sum, vec4f(1.0)) * params.scale;
        }
        workgroupBarrier();
        let before = weigh(lane, count, &state);
        // The newest key of the block; older ones are above it in the ring, wrapping at its start.
        let newest = (position - start) % params.capacity;
        for (var d = lane.index; d < params.head_dim; d += LANES) {
            var row = newest;
            var sum = 0.0;
            for (var i = 0u; i < count; i++) {
                sum += scores[i] * values[(row * params.kv_heads + kv) * params.head_stride * 4u + d];
                row = select(row - 1u, params.capacity - 1u, row == 0u);
            }
            if any {
                sum += before * mixed[to + d];
            }
            mixed[to + d] = sum;
        }
        any = true;
        workgroupBarrier();
#ifdef KIND_STICKBREAKING
        if state.x < params.least {
            break;
        }
#endif
    }
    if params.splits > 1u {
        for (var d = lane.index; d < params.head_dim && !any; d += LANES) {
            mixed[to + d] = 0.0;
        }
        if lane.index == 0u {
            stats[(row_set * params.heads + head) * params.splits + split] = state;
        }
    } else {
#ifdef KIND_SOFTMAX
        for (var d = lane.index; d < params.head_dim; d += LANES) {
            mixed[to + d] /= state.y;
        }
#endif
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

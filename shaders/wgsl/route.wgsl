// Chooses the k experts of each token and their weights: a workgroup per token.
// Softmax keeps the order of the logits, so logits are compared whatever the plan selects by.
const LANES = 64u;
#import sum_max
#import best

const LOGIT = 0u;
const SOFTMAX = 1u;
const SOFTMAX_SELECTED = 2u;

struct Params {
    experts: u32,
    stride: u32, // of logits, between tokens
    k: u32,
    by: u32, // the value that becomes the weight
    normalise: u32, // 1: weights sum to `scale`
    scale: f32,
    cosine: u32, // elements of a token's `hidden` by whose length logits are divided; 0: they are not
    hidden_stride: u32,
    table: u32, // the pool's first entry of `slot_of`
    latch: u32, // what a missing expert sets the latch to; 0: nobody waits for it
    choice: u32, // where `choices` takes this one, or NONE
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [tokens, padded experts]
@group(0) @binding(1) var<storage, read> hidden: array<f32>; // [tokens, padded G]
@group(0) @binding(2) var<storage, read> slot_of: array<u32>; // [pool, expert]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>; // [tokens, k]
@group(0) @binding(4) var<storage, read_write> weights: array<f32>; // [tokens, k]
@group(0) @binding(5) var<storage, read_write> choices: array<u32>; // for each step, what a single token chose

// The latch as others see it, see `latch`.
@group(1) @binding(0) var<storage, read_write> latch: array<atomic<u32>, 4>;

const NONE = 0xffffffffu;
const MISSING = 0xffffffffu; // in `slot_of`

var<workgroup> chosen: array<f32, 64>; // their logits
var<workgroup> stopped: bool;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if lane.index == 0u {
        stopped = atomicLoad(&latch[0]) != 0u;
    }
    if workgroupUniformLoad(&stopped) {
        return;
    }
    let row = group.x * params.stride;
    var factor = 1.0;
    if params.cosine > 0u {
        var sum = 0.0;
        for (var i = lane.index; i < params.cosine; i += LANES) {
            let z = hidden[group.x * params.hidden_stride + i];
            sum += z * z;
        }
        factor = 1.0 / max(sqrt(sum_all(lane, sum)), 1e-12);
    }
    var last = Best(3.4028234e38, 0u);
    for (var j = 0u; j < params.k; j++) {
        var mine = NOBODY;
        for (var e = lane.index; e < params.experts; e += LANES) {
            let candidate = Best(logits[row + e], e);
            if (j == 0u || better(last, candidate)) && better(candidate, mine) {
                mine = candidate;
            }
        }
        last = best_all(lane, mine);
        if lane.index == 0u {
            // Only numbers that are not finite leave nobody; the logits will say so.
            let id = min(last.id, params.experts - 1u);
            ids[group.x * params.k + j] = id;
            chosen[j] = last.value * factor;
            if params.choice != NONE {
                choices[params.choice + j] = id;
            }
            if params.latch != 0u && slot_of[params.table + id] == MISSING {
                atomicStore(&latch[0], params.latch);
            }
        }
    }
    workgroupBarrier();
    let top = chosen[0];
    var total = 1.0;
    if params.by == SOFTMAX {
        var sum = 0.0;
        for (var e = lane.index; e < params.experts; e += LANES) {
            sum += exp(logits[row + e] * factor - top);
        }
        total = sum_all(lane, sum);
    }
    if lane.index < params.k {
        var selected = 0.0;
        for (var j = 0u; j < params.k; j++) {
            selected += value(chosen[j], top);
        }
        if params.normalise == 1u || params.by == SOFTMAX_SELECTED {
            total = selected;
        }
        weights[group.x * params.k + lane.index] = params.scale * value(chosen[lane.index], top) / total;
    }
}

// Unnormalised.
fn value(logit: f32, top: f32) -> f32 {
    return select(exp(logit - top), logit, params.by == LOGIT);
}

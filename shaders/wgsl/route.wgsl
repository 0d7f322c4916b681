// Chooses the experts of each token and their weights: a workgroup per token.
#import latch_writer
const LANES = 64u;
#import sum_max
#import best

// Values derived from logits.
const LOGIT = 0u;
const SOFTMAX = 1u;
const SIGMOID = 2u;
const SOFTMAX_SELECTED = 3u;
const SOFTMAX_CLOSE = 4u;

// Bits of what becomes of logits.
const RELU = 1u; // negative ones become 0
const DELETE = 2u; // pruned experts are out of every sum too

// Rules.
const TOP_K = 0u;
const TOP_P = 1u;
const NON_ZERO = 2u;
const RANK = 3u;
const CERTAIN = 4u;

struct Params {
    experts: u32,
    stride: u32, // of logits, between tokens
    routes: u32, // entries of a token
    cosine: u32, // elements of a token's `hidden` by whose length logits are divided; 0: they are not
    hidden_stride: u32,
    change: u32, // what becomes of logits: RELU, DELETE or both
    norm: u32, // of all logits, 0: none
    norm_weight: u32, // in `vectors`
    norm_bias: u32, // likewise, or NONE
    eps: f32,
    select: u32, // the value that is compared
    bias: u32, // in `vectors`, added to it, or NONE
    groups: u32, // 0: all experts may be chosen
    keep: u32,
    pairs: u32, // 1: a group is worth its two best
    rule: u32,
    rank: u32,
    p: f32,
    least: u32, // the rule `CERTAIN`: experts that are always taken
    entropy: f32, // its index
    threshold: f32, // above it all are taken
    inside: f32, // added to each value for the entropy
    by: u32, // the value that becomes the weight
    margin: f32,
    normalise: u32, // 1: weights are divided by their sum
    epsilon: f32, // added to the sum
    floor: f32, // the least that is divided by
    scale: f32,
    table: u32, // the pool's first entry of `slot_of`
    mask: u32, // first word of the pruned experts' bits in `choices`, or NONE
    latch: u32, // what a missing expert sets the latch to; 0: nobody waits for it
    choice: u32, // where `choices` takes this one, or NONE
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [tokens, padded experts]
@group(0) @binding(1) var<storage, read> hidden: array<f32>; // [tokens, padded G]
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> slot_of: array<u32>; // [pool, expert]
@group(0) @binding(4) var<storage, read_write> ids: array<u32>; // [tokens, routes]: NONE where there is nothing to compute
@group(0) @binding(5) var<storage, read_write> weights: array<f32>; // [tokens, routes]
@group(0) @binding(6) var<storage, read_write> choices: array<u32>; // for each step, what a single token chose; then the masks

const NONE = 0xffffffffu;
const MISSING = 0xffffffffu; // in `slot_of`
const NOTHING = 0xfffffffeu; // likewise: an expert that computes nothing

const MOST = 256u; // routes of a token
var<workgroup> chosen: array<Best, MOST>; // logit and id, in order of selection
var<workgroup> shares: array<f32, MOST>; // their values, before they are normalised

#import logits
#import groups

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if latched(lane.index) {
        return;
    }
    let row = group.x * params.stride;
    let scope = transform(lane, row, group.x * params.hidden_stride);
    rank_groups(lane, row, scope);
    let count = choose(lane, row, scope);
    weigh(lane, row, count, scope);

    var sum = 0.0;
    for (var j = 0u; j < count; j++) {
        sum += shares[j];
    }
    let factor = params.scale / select(1.0, max(sum + params.epsilon, params.floor), params.normalise == 1u);
    for (var j = lane.index; j < params.routes; j += LANES) {
        var id = NONE;
        var weight = 0.0;
        if j < count {
            let slot = slot_of[params.table + chosen[j].id];
            if slot != NOTHING {
                id = chosen[j].id;
                weight = factor * shares[j];
            }
            if slot == MISSING && params.latch != 0u {
                close(params.latch);
            }
        }
        // Logits that are no numbers choose at random; whoever adds up the results is to know.
        if j == 0u && !usable(scope.worst) {
            weight = scope.worst;
        }
        ids[group.x * params.routes + j] = id;
        weights[group.x * params.routes + j] = weight;
        if params.choice != NONE {
            choices[params.choice + j] = id;
        }
    }
}

// Whether an expert is not chosen any more.
fn pruned(e: u32) -> bool {
    return params.mask != NONE && (choices[params.mask + e / 32u] >> (e % 32u) & 1u) == 1u;
}

// Fills `chosen` by the rule and returns how many there are.
fn choose(lane: Lane, row: u32, scope: Scope) -> u32 {
    let most = select(params.routes, params.rank + 1u, params.rule == RANK);
    var count = 0u;
    var last = NOBODY;
    let certain = params.rule == CERTAIN && entropy(lane, row, scope) <= params.threshold;
    var sum = 0.0;
    for (var j = 0u; j < most; j++) {
        var mine = NOBODY;
        for (var e = lane.index; e < params.experts; e += LANES) {
            let candidate = Best(compared(row, e, scope), e);
            let open = may(e) && !pruned(e) && (params.rule != NON_ZERO || candidate.value != 0.0);
            if open && (j == 0u || better(last, candidate)) && better(candidate, mine) {
                mine = candidate;
            }
        }
        last = best_all(lane, mine);
        if last.id == NONE {
            break;
        }
        sum += last.value;
        if certain && sum > params.p && j >= params.least {
            break;
        }
        if params.rule != RANK || j == params.rank {
            if lane.index == 0u {
                chosen[count] = Best(logits[row + last.id], last.id);
            }
            count++;
        }
        if params.rule == TOP_P && sum > params.p {
            break;
        }
    }
    workgroupBarrier();
    return count;
}

// Normalised Tsallis entropy of the values; 1 for an even choice.
fn entropy(lane: Lane, row: u32, scope: Scope) -> f32 {
    let n = f32(params.experts);
    let shannon = params.entropy == 1.0;
    var sum = 0.0;
    for (var e = lane.index; e < params.experts; e += LANES) {
        let p = compared(row, e, scope) + params.inside;
        sum += select(pow(p, params.entropy), p * log(p), shannon);
    }
    sum = sum_all(lane, sum);
    return select((1.0 - sum) / (1.0 - pow(n, 1.0 - params.entropy)), -sum / log(n), shannon);
}

// Fills `shares`.
fn weigh(lane: Lane, row: u32, count: u32, scope: Scope) {
    var top = LOWEST;
    var total = 0.0;
    if params.by == SOFTMAX_SELECTED {
        for (var j = 0u; j < count; j++) {
            top = max(top, chosen[j].value);
        }
        for (var j = 0u; j < count; j++) {
            total += exp(chosen[j].value - top);
        }
    }
    if params.by == SOFTMAX_CLOSE {
        for (var j = 0u; j < count; j++) {
            let sum = rivals(lane, row, j);
            if lane.index == 0u {
                shares[j] = 1.0 / sum;
            }
        }
    } else {
        for (var j = lane.index; j < count; j += LANES) {
            let l = chosen[j].value;
            shares[j] = value(params.by, l, scope);
            if params.by == SOFTMAX_SELECTED {
                shares[j] = exp(l - top) / total;
            }
        }
    }
    workgroupBarrier();
}

// What those close to the `n`-th chosen expert and not chosen before it amount to, itself being 1.
fn rivals(lane: Lane, row: u32, n: u32) -> f32 {
    let s = chosen[n].value;
    var sum = 0.0;
    for (var e = lane.index; e < params.experts; e += LANES) {
        let t = logits[row + e];
        var close = (s - t) / max(abs(t), s) <= params.margin;
        for (var j = 0u; j < n && close; j++) {
            close = chosen[j].id != e;
        }
        sum += select(0.0, exp(t - s), close);
    }
    return sum_all(lane, sum);
}

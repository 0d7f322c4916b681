// A router's logits of one token, and the values that follow from them.
const RMS = 1u;
const LAYER = 2u;
const LOWEST = -3.4028234e38;

// What values depend on beside their own logit.
struct Scope {
    top: f32, // the largest logit
    total: f32, // Σ exp(logit - top)
    worst: f32, // a logit that cannot be used, if there is one
}

var<workgroup> worst: f32;

// Transforms the logits of `row` in place; each lane reads and writes its own.
fn transform(lane: Lane, row: u32, hidden_row: u32) -> Scope {
    var factor = 1.0;
    if params.cosine > 0u {
        var sum = 0.0;
        for (var i = lane.index; i < params.cosine; i += LANES) {
            let z = hidden[hidden_row + i];
            sum += z * z;
        }
        factor = 1.0 / max(sqrt(sum_all(lane, sum)), 1e-12);
    }
    if lane.index == 0u {
        worst = 0.0;
    }
    workgroupBarrier();
    for (var e = lane.index; e < params.experts; e += LANES) {
        var l = logits[row + e] * factor;
        if !usable(l) {
            worst = l;
        }
        if (params.change & RELU) != 0u {
            l = max(l, 0.0);
        }
        logits[row + e] = l;
    }
    if params.norm != 0u {
        normalise(lane, row);
    }
    if (params.change & DELETE) != 0u {
        for (var e = lane.index; e < params.experts; e += LANES) {
            if pruned(e) {
                logits[row + e] = LOWEST;
            }
        }
    }
    var scope = Scope(LOWEST, 0.0, 0.0);
    if params.select == SOFTMAX || params.by == SOFTMAX {
        for (var e = lane.index; e < params.experts; e += LANES) {
            scope.top = max(scope.top, logits[row + e]);
        }
        scope.top = max_all(lane, scope.top);
        for (var e = lane.index; e < params.experts; e += LANES) {
            scope.total += exp(logits[row + e] - scope.top);
        }
        scope.total = sum_all(lane, scope.total);
    }
    // What lanes have written is for all of them now.
    storageBarrier();
    scope.worst = workgroupUniformLoad(&worst);
    return scope;
}

fn normalise(lane: Lane, row: u32) {
    let n = f32(params.experts);
    var mean = 0.0;
    if params.norm == LAYER {
        for (var e = lane.index; e < params.experts; e += LANES) {
            mean += logits[row + e];
        }
        mean = sum_all(lane, mean) / n;
    }
    var spread = 0.0;
    for (var e = lane.index; e < params.experts; e += LANES) {
        let d = logits[row + e] - mean;
        spread += d * d;
    }
    let factor = inverseSqrt(sum_all(lane, spread) / n + params.eps);
    for (var e = lane.index; e < params.experts; e += LANES) {
        var l = (logits[row + e] - mean) * factor * vectors[params.norm_weight + e];
        if params.norm_bias != NONE {
            l += vectors[params.norm_bias + e];
        }
        logits[row + e] = l;
    }
}

// Values over the selected are not among them.
fn value(kind: u32, logit: f32, scope: Scope) -> f32 {
    switch kind {
        case SOFTMAX: { return exp(logit - scope.top) / scope.total; }
        case SIGMOID: { return 1.0 / (1.0 + exp(-logit)); }
        default: { return logit; }
    }
}

// The value by which expert `e` is compared.
fn compared(row: u32, e: u32, scope: Scope) -> f32 {
    var v = value(params.select, logits[row + e], scope);
    if params.bias != NONE {
        v += vectors[params.bias + e];
    }
    return v;
}

// Negative infinity is fine: an expert that is out of the question. By the bits, which no compiler takes for granted.
fn usable(v: f32) -> bool {
    let bits = bitcast<u32>(v);
    return (bits & 0x7f800000u) != 0x7f800000u || bits == 0xff800000u;
}

// Groups of experts of which only the best are chosen from.
#import logits

const GROUPS = 1024u; // at most
var<workgroup> worths: array<f32, GROUPS>;
var<workgroup> kept: array<u32, GROUPS>;

fn rank_groups(lane: Lane, row: u32, scope: Scope) {
    if params.groups == 0u {
        return;
    }
    let size = params.experts / params.groups;
    for (var g = lane.index; g < params.groups; g += LANES) {
        var first = LOWEST;
        var second = LOWEST;
        for (var e = g * size; e < (g + 1u) * size; e++) {
            let v = select(compared(row, e, scope), LOWEST, pruned(e));
            second = max(second, min(first, v));
            first = max(first, v);
        }
        worths[g] = select(first, max(first + second, LOWEST), params.pairs == 1u);
    }
    workgroupBarrier();
    for (var g = lane.index; g < params.groups; g += LANES) {
        var before = 0u;
        for (var other = 0u; other < params.groups; other++) {
            before += select(0u, 1u, better(Best(worths[other], other), Best(worths[g], g)));
        }
        kept[g] = select(0u, 1u, before < params.keep);
    }
    workgroupBarrier();
}

// Whether an expert may be chosen.
fn may(e: u32) -> bool {
    return params.groups == 0u || kept[e / (params.experts / params.groups)] == 1u;
}

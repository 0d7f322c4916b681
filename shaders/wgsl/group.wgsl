// Sorts the routes of a batch by expert and cuts each expert's list into tiles of 32: one workgroup, no atomics, so that the order
// never depends on timing.
#import latch
const LANES = 256u;
const TILE = 32u;

struct Params {
    routes: u32, // tokens · routes of a token
    experts: u32,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> ids: array<u32>; // [routes]; entries without an expert are in no list
@group(0) @binding(1) var<storage, read_write> starts: array<u32>; // [experts]: count, then first in `sorted`
@group(0) @binding(2) var<storage, read_write> sorted: array<u32>; // [routes]
@group(0) @binding(3) var<storage, read_write> tiles: array<vec4u>; // [0].x: how many; then expert, first in `sorted`, routes

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if stalled() {
        return;
    }
    for (var e = lane; e < params.experts; e += LANES) {
        var count = 0u;
        for (var r = 0u; r < params.routes; r++) {
            count += select(0u, 1u, ids[r] == e);
        }
        starts[e] = count;
    }
    storageBarrier();
    if lane == 0u {
        var start = 0u;
        var n = 0u;
        for (var e = 0u; e < params.experts; e++) {
            let count = starts[e];
            starts[e] = start;
            for (var i = 0u; i < count; i += TILE) {
                n++;
                tiles[n] = vec4u(e, start + i, min(TILE, count - i), 0u);
            }
            start += count;
        }
        tiles[0] = vec4u(n, 0u, 0u, 0u);
    }
    storageBarrier();
    for (var e = lane; e < params.experts; e += LANES) {
        var to = starts[e];
        for (var r = 0u; r < params.routes; r++) {
            if ids[r] == e {
                sorted[to] = r;
                to++;
            }
        }
    }
}

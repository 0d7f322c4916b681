// Gives each route of a batch the row that its expert's keys and values go to: one workgroup, an expert per lane, no atomics.
//
// An expert's list names the rows it wrote, oldest first. Entries from the batch's position on are of a conversation that was given up:
// so a batch may be repeated, and a run start again, without anybody cleaning up.
#import latch
const LANES = 256u;

struct Params {
    routes: u32, // of all tokens: entries of `ids`
    first: u32, // number of the batch's first route in the conversation
    experts: u32,
    capacity: u32, // entries of a list
    rings: u32, // 1: rows of an expert are a ring of `capacity`; 0: a route's row is its number in the conversation
    entries: u32, // first entry of `index`, see there
    lists: u32, // first list of `index`
}

const NOBODY = 0xffffffffu;

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> ids: array<u32>; // [routes]: expert, or NOBODY
// [experts]: length of each list; from `entries` on [routes, 3]: where the expert's list begins among all, the route's place in it, its
// row or NOBODY; from `lists` on [experts, capacity]: numbers of routes.
@group(0) @binding(1) var<storage, read_write> index: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if stalled() {
        return;
    }
    for (var e = lane; e < params.experts; e += LANES) {
        let list = params.lists + e * params.capacity;
        var n = select(index[e], 0u, params.first == 0u);
        // Rings forget, so they are looked through once at most.
        for (var i = 0u; i < params.capacity && n > 0u && index[list + (n - 1u) % params.capacity] >= params.first; i++) {
            n--;
        }
        for (var r = 0u; r < params.routes; r++) {
            if ids[r] == e {
                let number = params.first + r;
                let place = e * params.capacity + n % params.capacity;
                index[params.lists + place] = number;
                index[params.entries + 3u * r] = e * params.capacity;
                index[params.entries + 3u * r + 1u] = n;
                index[params.entries + 3u * r + 2u] = select(number, place, params.rings == 1u);
                n++;
            }
        }
        index[e] = n;
    }
    for (var r = lane; r < params.routes; r += LANES) {
        if ids[r] == NOBODY {
            index[params.entries + 3u * r + 2u] = NOBODY;
        }
    }
}

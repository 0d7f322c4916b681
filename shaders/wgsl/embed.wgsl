// x = scale · table[token], or x += table[position]: a workgroup per token. The table may be cut into windows of whole panels, one dispatch for each.
#import latch
#import codec

struct Params {
    words: u32, // first line of the window's first panel, in vec4
    scales: u32, // its first scales, in vec4
    chunks: u32, // of 8 columns in a row
    first: u32, // token id or position of the window's first row
    rows: u32, // in the window
    stride: u32, // of x, in vec4
    scale: f32,
    position: u32, // of token 0, or NONE: rows are token ids
}

const NONE = 0xffffffffu;

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> weights: array<vec4u>; // panels of the table
@group(0) @binding(1) var<storage, read> tokens: array<u32>; // [tokens]
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>; // [tokens, padded D]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let adds = params.position != NONE;
    let row = select(tokens[group.x], params.position + group.x, adds) - params.first;
    if row >= params.rows {
        return;
    }
    let panel = row >> 4u;
    let quad = (row >> 2u) & 3u;
    for (var c = lane; c < params.chunks; c += 64u) {
        let b = block(params.words + (panel * params.chunks + c) * LINES * 4u + quad);
        var s = params.scale;
        if SCALED {
            s *= scale(params.scales + panel * (params.chunks >> 2u) * SCALE_LINES, c >> 2u, quad)[row & 3u];
        }
        var lo = transpose(b.lo);
        var hi = transpose(b.hi);
        let to = group.x * params.stride + 2u * c;
        x[to] = select(vec4f(0.0), x[to], adds) + s * lo[row & 3u];
        x[to + 1u] = select(vec4f(0.0), x[to + 1u], adds) + s * hi[row & 3u];
    }
}

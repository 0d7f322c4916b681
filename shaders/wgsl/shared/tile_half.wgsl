// Tiles of tokens in half precision.
#import half

var<workgroup> staged: array<Chunk, 128>; // [4 chunks of 8 columns, 32 tokens]
var<workgroup> tops: array<f32, TILE>; // largest magnitude of each token's group

// Narrows columns 32·group.. of every token of the tile: two lanes share a token, each looks at all of it and narrows one half.
fn stage(group: u32, n: u32) {
    workgroupBarrier();
    let token = n & 31u;
    let base = rows[token];
    var top = 0.0;
    for (var i = group * 8u; i < group * 8u + 8u; i += 2u) {
        top = max(top, top_of(columns(base, i), columns(base, i + 1u)));
    }
    let inverse = inverse_of(top);
    for (var c = n >> 5u; c < 4u; c += 2u) {
        let i = group * 8u + 2u * c;
        staged[c * TILE + token] = narrowed(columns(base, i), columns(base, i + 1u), inverse);
    }
    tops[token] = top;
    workgroupBarrier();
}

// Four rows × four tokens of one group of 32 columns. `words`: the quad's first line of that group.
fn tile(words: u32, scales: u32, group: u32, quad: u32, t: u32) -> mat4x4f {
    var a = mat4x2h();
    var b = mat4x2h();
    var c = mat4x2h();
    var d = mat4x2h();
    for (var i = 0u; i < 4u; i++) {
        let w = rows_of(words + i * LINES * 4u);
        let at = i * TILE + t;
        a += dot_rows(w, staged[at]);
        b += dot_rows(w, staged[at + 8u]);
        c += dot_rows(w, staged[at + 16u]);
        d += dot_rows(w, staged[at + 24u]);
    }
    let s = scale(scales, group, quad);
    return mat4x4f(
        s * (tops[t] * joined(a)),
        s * (tops[t + 8u] * joined(b)),
        s * (tops[t + 16u] * joined(c)),
        s * (tops[t + 24u] * joined(d)),
    );
}

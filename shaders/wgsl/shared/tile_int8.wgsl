// Tiles of tokens rounded to 8 bits.
#import int8

var<workgroup> staged: array<vec2u, 128>; // [4 chunks of 8 columns, 32 tokens]
var<workgroup> steps: array<f32, TILE>; // scale of each token's group

// Rounds columns 32·group.. of every token of the tile: two lanes share a token, each looks at all of it and rounds one half.
fn stage(group: u32, n: u32) {
    workgroupBarrier();
    let token = n & 31u;
    let base = rows[token];
    var bits = 0u;
    for (var i = group * 8u; i < group * 8u + 8u; i += 2u) {
        bits = max(bits, top_bits(columns(base, i), columns(base, i + 1u)));
    }
    let top = bitcast<f32>(bits);
    let inverse = inverse_of(top);
    for (var c = n >> 5u; c < 4u; c += 2u) {
        let i = group * 8u + 2u * c;
        staged[c * TILE + token] = vec2u(rounded(columns(base, i), inverse), rounded(columns(base, i + 1u), inverse));
    }
    steps[token] = top / 127.0;
    workgroupBarrier();
}

// Four rows × four tokens of one group of 32 columns. `words`: the quad's first line of that group.
fn tile(words: u32, scales: u32, group: u32, quad: u32, t: u32) -> mat4x4f {
    var a = vec4i();
    var b = vec4i();
    var c = vec4i();
    var d = vec4i();
    for (var i = 0u; i < 4u; i++) {
        let w = bytes_of(words + i * LINES * 4u);
        let at = i * TILE + t;
        a += dot_bytes(w, staged[at].x, staged[at].y);
        b += dot_bytes(w, staged[at + 8u].x, staged[at + 8u].y);
        c += dot_bytes(w, staged[at + 16u].x, staged[at + 16u].y);
        d += dot_bytes(w, staged[at + 24u].x, staged[at + 24u].y);
    }
    let s = scale(scales, group, quad);
    return mat4x4f(
        s * (steps[t] * UNIT * vec4f(a)),
        s * (steps[t + 8u] * UNIT * vec4f(b)),
        s * (steps[t + 16u] * UNIT * vec4f(c)),
        s * (steps[t + 24u] * UNIT * vec4f(d)),
    );
}

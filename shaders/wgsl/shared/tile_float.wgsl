// Tiles in f32.
var<workgroup> staged: array<vec4f, 256>; // [32 columns as 8 vec4, 32 tokens]

// Copies columns 32·group.. of every token of the tile.
fn stage(group: u32, n: u32) {
    workgroupBarrier();
    let token = n & 31u;
    for (var i = n >> 5u; i < 8u; i += 2u) {
        staged[i * TILE + token] = x[rows[token] + group * 8u + i];
    }
    workgroupBarrier();
}

// Four rows × four tokens of one group of 32 columns. `words`: the quad's first line of that group.
fn tile(words: u32, scales: u32, group: u32, quad: u32, t: u32) -> mat4x4f {
    var sum = mat4x4f();
    for (var c = 0u; c < 4u; c++) {
        let b = block(words + c * LINES * 4u);
        let at = c * 2u * TILE + t;
        sum += b.lo * mat4x4f(staged[at], staged[at + 8u], staged[at + 16u], staged[at + 24u]);
        let next = at + TILE;
        sum += b.hi * mat4x4f(staged[next], staged[next + 8u], staged[next + 16u], staged[next + 24u]);
    }
    if SCALED {
        let s = scale(scales, group, quad);
        return mat4x4f(s * sum[0], s * sum[1], s * sum[2], s * sum[3]);
    }
    return sum;
}

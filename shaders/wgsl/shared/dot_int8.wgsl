// Vectors rounded to 8 bits on the fly.
#import codec
#import int8

// Thirty-two columns, four to a word.
struct Values {
    lo: vec4u, // columns 0..4 of each chunk
    hi: vec4u, // columns 4..8
    scale: f32,
}

#ifdef LANES_SUBGROUP
// The four lanes of a slice, neighbours in a subgroup, round a chunk each.
fn values(base: u32, group: u32, quad: u32) -> Values {
    let i = group * 8u + 2u * quad;
    let a = columns(base, i);
    let b = columns(base, i + 1u);
    var bits = top_bits(a, b);
    bits = max(bits, quadSwapX(bits));
    bits = max(bits, quadSwapY(bits));
    let top = bitcast<f32>(bits);
    let inverse = inverse_of(top);
    let lo = rounded(a, inverse);
    let hi = rounded(b, inverse);
    return Values(
        vec4u(quadBroadcast(lo, 0u), quadBroadcast(lo, 1u), quadBroadcast(lo, 2u), quadBroadcast(lo, 3u)),
        vec4u(quadBroadcast(hi, 0u), quadBroadcast(hi, 1u), quadBroadcast(hi, 2u), quadBroadcast(hi, 3u)),
        top / 127.0,
    );
}
#else
fn values(base: u32, group: u32, quad: u32) -> Values {
    let i = group * 8u;
    let lo = mat4x4f(columns(base, i), columns(base, i + 2u), columns(base, i + 4u), columns(base, i + 6u));
    let hi = mat4x4f(columns(base, i + 1u), columns(base, i + 3u), columns(base, i + 5u), columns(base, i + 7u));
    let bits = max(max(top_bits(lo[0], hi[0]), top_bits(lo[1], hi[1])), max(top_bits(lo[2], hi[2]), top_bits(lo[3], hi[3])));
    let top = bitcast<f32>(bits);
    let inverse = inverse_of(top);
    return Values(
        vec4u(rounded(lo[0], inverse), rounded(lo[1], inverse), rounded(lo[2], inverse), rounded(lo[3], inverse)),
        vec4u(rounded(hi[0], inverse), rounded(hi[1], inverse), rounded(hi[2], inverse), rounded(hi[3], inverse)),
        top / 127.0,
    );
}
#endif

// Four rows; `at`: the quad's first line of the group.
fn dots(at: u32, v: Values) -> vec4f {
    var sum = dot_bytes(bytes_of(at), v.lo[0], v.hi[0]);
    sum += dot_bytes(bytes_of(at + LINES * 4u), v.lo[1], v.hi[1]);
    sum += dot_bytes(bytes_of(at + LINES * 8u), v.lo[2], v.hi[2]);
    sum += dot_bytes(bytes_of(at + LINES * 12u), v.lo[3], v.hi[3]);
    return v.scale * UNIT * vec4f(sum);
}

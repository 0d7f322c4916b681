// Vectors in half precision.
#import codec
#import half

// Thirty-two columns, within ±1.
struct Values {
    a: Chunk,
    b: Chunk,
    c: Chunk,
    d: Chunk,
    scale: f32,
}

fn values(base: u32, group: u32, quad: u32) -> Values {
    let i = group * 8u;
    let lo = mat4x4f(columns(base, i), columns(base, i + 2u), columns(base, i + 4u), columns(base, i + 6u));
    let hi = mat4x4f(columns(base, i + 1u), columns(base, i + 3u), columns(base, i + 5u), columns(base, i + 7u));
    let top = max(max(top_of(lo[0], hi[0]), top_of(lo[1], hi[1])), max(top_of(lo[2], hi[2]), top_of(lo[3], hi[3])));
    let inverse = inverse_of(top);
    return Values(
        narrowed(lo[0], hi[0], inverse),
        narrowed(lo[1], hi[1], inverse),
        narrowed(lo[2], hi[2], inverse),
        narrowed(lo[3], hi[3], inverse),
        top,
    );
}

// Four rows; `at`: the quad's first line of the group.
fn dots(at: u32, v: Values) -> vec4f {
    var sum = dot_rows(rows_of(at), v.a);
    sum += dot_rows(rows_of(at + LINES * 4u), v.b);
    sum += dot_rows(rows_of(at + LINES * 8u), v.c);
    sum += dot_rows(rows_of(at + LINES * 12u), v.d);
    return v.scale * joined(sum);
}

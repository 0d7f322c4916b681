// Products in half precision: a group of 32 columns of x is divided by its largest magnitude, so that 32 products with weights within
// ±128 stay far below the largest half.
#import columns

enable f16;

// Eight columns of a row or of x: 0 and 2, 1 and 3, 4 and 6, 5 and 7, which is how bytes and nibbles lie in the halves of a word.
alias Chunk = mat4x2h;

struct Rows {
    a: Chunk,
    b: Chunk,
    c: Chunk,
    d: Chunk,
}

// In a half from 1024 on, the lowest bits count ones.
fn ones(w: u32, zero: f16) -> vec2h {
    return vec2h(unpack2x16float(w | 0x64006400u)) - zero;
}

#ifdef PRODUCT_Q8HALF
fn rows_of(at: u32) -> Rows {
    // Signed bytes become bytes plus 128.
    let lo = weights[at] ^ vec4u(0x80808080u);
    let hi = weights[at + 4u] ^ vec4u(0x80808080u);
    return Rows(from_bytes(lo.x, hi.x), from_bytes(lo.y, hi.y), from_bytes(lo.z, hi.z), from_bytes(lo.w, hi.w));
}

fn from_bytes(lo: u32, hi: u32) -> Chunk {
    let m = 0x00ff00ffu;
    return Chunk(ones(lo & m, 1152.0h), ones((lo >> 8u) & m, 1152.0h), ones(hi & m, 1152.0h), ones((hi >> 8u) & m, 1152.0h));
}
#else
fn rows_of(at: u32) -> Rows {
    let w = weights[at];
    return Rows(from_nibbles(w.x), from_nibbles(w.y), from_nibbles(w.z), from_nibbles(w.w));
}

fn from_nibbles(w: u32) -> Chunk {
    let m = 0x000f000fu;
    return Chunk(ones(w & m, 1032.0h), ones((w >> 8u) & m, 1032.0h), ones((w >> 4u) & m, 1032.0h), ones((w >> 12u) & m, 1032.0h));
}
#endif

// Four rows times eight columns: two sums for each row.
fn dot_rows(w: Rows, v: Chunk) -> mat4x2h {
    return mat4x2h(pairs(w.a, v), pairs(w.b, v), pairs(w.c, v), pairs(w.d, v));
}

fn pairs(w: Chunk, v: Chunk) -> vec2h {
    return w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + w[3] * v[3];
}

fn joined(sum: mat4x2h) -> vec4f {
    return vec4f(vec4h(sum[0].x, sum[1].x, sum[2].x, sum[3].x)) + vec4f(vec4h(sum[0].y, sum[1].y, sum[2].y, sum[3].y));
}

fn top_of(a: vec4f, b: vec4f) -> f32 {
    let m = max(abs(a), abs(b));
    return max(max(m.x, m.y), max(m.z, m.w));
}

// A group that is almost nothing counts as nothing, lest its inverse be infinite.
fn inverse_of(top: f32) -> f32 {
    return select(0.0, 1.0 / top, top > 1e-30);
}

fn narrowed(lo: vec4f, hi: vec4f, inverse: f32) -> Chunk {
    let a = vec4h(lo * inverse);
    let b = vec4h(hi * inverse);
    return Chunk(a.xz, a.yw, b.xz, b.yw);
}

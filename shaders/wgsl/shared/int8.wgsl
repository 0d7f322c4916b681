// Products of 8-bit integers: a group of 32 columns of x is rounded to `q · scale`, q within ±127, by the rule of the CPU executor.
#import columns

// Eight columns of four rows, a byte each, UNIT times too large.
struct Bytes {
    lo: vec4u, // columns 0..4
    hi: vec4u, // columns 4..8
}

#ifdef PRODUCT_Q8INT8
const UNIT = 1.0;

fn bytes_of(at: u32) -> Bytes {
    return Bytes(weights[at], weights[at + 4u]);
}
#else
const UNIT = 0.0625;

// A nibble, stored plus 8, becomes the upper half of a signed byte by turning over its highest bit.
fn bytes_of(at: u32) -> Bytes {
    let w = weights[at] ^ vec4u(0x88888888u);
    let upper = vec4u(0xf0f0f0f0u);
    return Bytes((w << vec4u(4u)) & upper, w & upper);
}
#endif

// Four rows times eight columns: `lo` and `hi` are columns 0..4 and 4..8 of x.
fn dot_bytes(w: Bytes, lo: u32, hi: u32) -> vec4i {
    return dot_words(w.lo, lo) + dot_words(w.hi, hi);
}

fn dot_words(w: vec4u, v: u32) -> vec4i {
    return vec4i(dot4I8Packed(w.x, v), dot4I8Packed(w.y, v), dot4I8Packed(w.z, v), dot4I8Packed(w.w, v));
}

// Bits of the largest magnitude; they order like the floats, infinities and NaNs above all.
fn top_bits(a: vec4f, b: vec4f) -> u32 {
    let m = max(bitcast<vec4u>(abs(a)), bitcast<vec4u>(abs(b)));
    return max(max(m.x, m.y), max(m.z, m.w));
}

// Rounded values of 1 for a group whose largest magnitude is `top`.
fn inverse_of(top: f32) -> f32 {
    return select(0.0, 127.0 / top, top > 0.0);
}

fn rounded(v: vec4f, inverse: f32) -> u32 {
    return pack4xI8(vec4i(round(v * inverse)));
}

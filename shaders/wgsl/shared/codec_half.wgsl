// f16 and bf16: four lines, two columns each, the even column in the low half.
const LINES = 4u;
const SCALED = false;

fn block(at: u32) -> Block {
    let a = pair(at);
    let b = pair(at + 4u);
    let c = pair(at + 8u);
    let d = pair(at + 12u);
    return Block(mat4x4f(a[0], a[1], b[0], b[1]), mat4x4f(c[0], c[1], d[0], d[1]));
}

// Two columns of four rows.
fn pair(at: u32) -> mat2x4f {
    let w = weights[at];
#ifdef CODEC_F16 PRODUCT_F16
    return transpose(mat4x2f(unpack2x16float(w.x), unpack2x16float(w.y), unpack2x16float(w.z), unpack2x16float(w.w)));
#else
    return mat2x4f(bitcast<vec4f>(w << vec4u(16u)), bitcast<vec4f>(w & vec4u(0xffff0000u)));
#endif
}

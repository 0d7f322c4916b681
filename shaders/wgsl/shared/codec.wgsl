// Reading a panel: sixteen rows in four quads; a line is four vec4 of words, one for each quad.
// `block(at)` decodes eight columns (a *chunk*, LINES lines) of the quad whose word in the first of these lines is `weights[at]`.

// Four rows down each column; unscaled.
struct Block {
    lo: mat4x4f, // columns 0..4
    hi: mat4x4f, // columns 4..8
}

#ifdef CODEC_F32 PRODUCT_F32
#import codec_f32
#endif
#ifdef CODEC_F16 PRODUCT_F16 CODEC_BF16 PRODUCT_BF16
#import codec_half
#endif
#ifdef CODEC_Q8 PRODUCT_Q8 PRODUCT_Q8INT8 PRODUCT_Q8HALF
#import codec_q8
#endif
#ifdef CODEC_Q4 PRODUCT_Q4 PRODUCT_Q4INT8 PRODUCT_Q4HALF
#import codec_q4
#endif
#ifdef CODEC_MXFP4 PRODUCT_MXFP4
#import codec_mxfp4
#endif

// Columns of a chunk; four chunks share a scale.
const CHUNK = 8u;

#ifdef CODEC_MXFP4 PRODUCT_MXFP4
// vec4 of scales for a group of 32 columns of a panel.
const SCALE_LINES = 1u;

// Scales of a quad's rows for one group. `at`: where the panel's scales begin, in vec4. A byte is a power of two, like a float's exponent.
fn scale(at: u32, group: u32, quad: u32) -> vec4f {
    let w = weights[at + group][quad];
    return bitcast<vec4f>((vec4u(w, w >> 8u, w >> 16u, w >> 24u) & vec4u(255u)) << vec4u(23u));
}
#else
const SCALE_LINES = 2u;

fn scale(at: u32, group: u32, quad: u32) -> vec4f {
    let i = at + group * 2u + (quad >> 1u);
    let half = (quad & 1u) * 2u;
    return vec4f(unpack2x16float(weights[i][half]), unpack2x16float(weights[i][half + 1u]));
}
#endif

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

// Columns of a chunk; four chunks share a scale.
const CHUNK = 8u;

// Scales of a quad's rows for one group of 32 columns. `at`: where the panel's scales begin, in vec4; a group has two of them.
fn scale(at: u32, group: u32, quad: u32) -> vec4f {
    let i = at + group * 2u + (quad >> 1u);
    let half = (quad & 1u) * 2u;
    return vec4f(unpack2x16float(weights[i][half]), unpack2x16float(weights[i][half + 1u]));
}

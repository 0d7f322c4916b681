// The inner loop of matrix times many vectors: a workgroup of 64 lanes computes TILE = 32 tokens × 16 quads of rows.
// Lane = 8 · t + r takes the two quads r and r + 8 (or, gated, quad r of both matrices) for tokens t, t + 8, t + 16, t + 24.
// The importing kernel binds `weights` and `x` and fills `rows`.
#import codec

const TILE = 32u;

var<workgroup> rows: array<u32, TILE>; // where each token's row of x begins, in vec4

// `stage` copies a group of every token to the workgroup, `tile` multiplies four rows with four tokens of it.
#ifdef PRODUCT_Q8INT8 PRODUCT_Q4INT8
#import tile_int8
#else
#ifdef PRODUCT_Q8HALF PRODUCT_Q4HALF
#import tile_half
#else
#import tile_float
#endif
#endif

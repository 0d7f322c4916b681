// One or four panels times one vector: lane = 4 · slice + quad takes every sixteenth group of 32 columns of its quad's rows.
// Four panels share the reads of x; one gives more workgroups. The importing kernel binds `weights: array<vec4u>` and `x: array<vec4f>`.
#import codec

#ifdef PANELS_FOUR
const PANELS = 4u;
alias Sums = mat4x4f; // a column for each panel
#else
const PANELS = 1u;
alias Sums = vec4f;
#endif

#ifdef PRODUCT_Q8INT8 PRODUCT_Q4INT8 PRODUCT_Q8HALF PRODUCT_Q4HALF
#import dot_prepared
#else
#import dot_float
#endif

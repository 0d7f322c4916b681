// Vectors whose groups are prepared once, for all panels, before they are multiplied.

// `values` prepares a group of x, `dots` multiplies four rows of a panel with it.
#ifdef PRODUCT_Q8INT8 PRODUCT_Q4INT8
#import dot_int8
#else
#import dot_half
#endif

// `words`, `scales`: where each panel begins, in vec4; `base`: where x begins, in vec4.
fn dot_panels(words: vec4u, scales: vec4u, chunks: u32, base: u32, n: u32) -> Sums {
    let quad = n & 3u;
    let groups = chunks >> 2u;
    var sum = Sums();
    // All lanes take the same number of turns, because `values` may be the common work of neighbours.
    for (var first = 0u; first < groups; first += 16u) {
        let g = first + (n >> 2u);
        let v = values(base, min(g, groups - 1u), quad);
        if g < groups {
#ifdef PANELS_FOUR
            sum += Sums(
                panel(words.x, scales.x, g, quad, v),
                panel(words.y, scales.y, g, quad, v),
                panel(words.z, scales.z, g, quad, v),
                panel(words.w, scales.w, g, quad, v),
            );
#else
            sum += panel(words.x, scales.x, g, quad, v);
#endif
        }
    }
    return sum;
}

fn panel(words: u32, scales: u32, group: u32, quad: u32, v: Values) -> vec4f {
    return dots(words + group * LINES * 16u + quad, v) * scale(scales, group, quad);
}

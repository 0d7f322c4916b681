// mxfp4: a sign, two bits of exponent, one of mantissa.
#import nibbles

// Magnitudes 0, ½, 1, 1½, 2, 3, 4, 6 lie on three lines, always the highest one.
fn nibble(w: vec4u) -> vec4f {
    let n = vec4f(w & vec4u(7u));
    let magnitude = max(max(0.5 * n, n - 2.0), 2.0 * n - 8.0);
    return select(magnitude, -magnitude, (w & vec4u(8u)) != vec4u(0u));
}

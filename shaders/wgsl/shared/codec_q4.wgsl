// q4: nibbles stored plus 8.
#import nibbles

fn nibble(w: vec4u) -> vec4f {
    return vec4f(w & vec4u(15u)) - 8.0;
}

//! Every instruction set of this machine against the plain definition: bit for bit where that is promised.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::codec::{Layout, encode};

/// Numbers in -1..1 that are always the same.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// `[groups][tokens]` from token-major values, columns padded with zeros.
fn groups(x: &[f32], cols: usize) -> Vec<Group> {
    let tokens = x.len() / cols;
    let mut out = vec![[0.0; GROUP]; cols.div_ceil(GROUP) * tokens];
    for (t, row) in x.chunks(cols).enumerate() {
        for (g, values) in row.chunks(GROUP).enumerate() {
            out[g * tokens + t][..values.len()].copy_from_slice(values);
        }
    }
    out
}

fn stored(codec: Codec, rows: usize, cols: usize, seed: u32) -> (Layout, Vec<u8>) {
    let layout = Layout::new(codec, rows, cols).unwrap();
    let mut bytes = vec![0; layout.bytes()];
    encode(layout, &noise(rows * cols, seed), &mut bytes);
    (layout, bytes)
}

/// All rows of `m` times all of `x`: `[units][tokens]`.
fn multiply(k: &dyn Kernels, m: Matrix<'_>, x: &[Group], accumulate: bool) -> Vec<Group> {
    let tokens = x.len() / m.layout().groups();
    let mut blocks = vec![Block::default(); x.len()];
    k.round(x, &mut blocks);
    let values = if m.layout().codec.has_scales() { Values::Rounded(&blocks) } else { Values::Float(x) };
    let units = m.layout().panels().div_ceil(2);
    let mut out = vec![[0.25; GROUP]; units * tokens];
    for u in 0..units {
        k.product(&Rows::of(m, 2 * u, m.layout().panels()), values, tokens, 0, &mut out[u * tokens..][..tokens], accumulate);
    }
    out
}

#[test]
fn products_are_the_same_bits_on_every_instruction_set() {
    let sets = available();
    let scalar = *sets.last().unwrap();
    for codec in Codec::ALL {
        for (i, (rows, cols, tokens)) in
            [(1, 1, 1), (16, 32, 1), (40, 96, 3), (33, 70, 7), (64, 256, 16), (17, 130, 37)].into_iter().enumerate()
        {
            let (layout, bytes) = stored(codec, rows, cols, i as u32);
            let m = Matrix::new(layout, &bytes).unwrap();
            let x = groups(&noise(tokens * cols, 77), cols);
            for accumulate in [false, true] {
                let want = multiply(scalar, m, &x, accumulate);
                for k in &sets {
                    assert_eq!(multiply(*k, m, &x, accumulate), want, "{codec} {rows}×{cols}, {tokens} tokens, {}", k.name());
                }
            }
        }
    }
}

#[test]
fn extremes_of_the_integer_codecs_do_not_saturate() {
    let one = half::f16::ONE.to_le_bytes();
    for (codec, word, scale, weight) in [
        (Codec::Q4, 0xff, &one[..], 7.0),
        (Codec::Q8, 0x80, &one, -128.0),
        (Codec::Mxfp4, 0xff, &[127], -6.0),
        (Codec::Mxfp4, 0x77, &[127], 6.0),
    ] {
        let layout = Layout::new(codec, 16, 32).unwrap();
        let mut bytes = vec![word; layout.scales_at()];
        bytes.extend(scale.repeat((layout.bytes() - layout.scales_at()) / scale.len()));
        let m = Matrix::new(layout, &bytes).unwrap();
        for sign in [1.0, -1.0] {
            let x = groups(&[127.0 * sign; 32], 32);
            for k in available() {
                assert_eq!(
                    multiply(k, m, &x, false).as_flattened(),
                    [[weight * 127.0 * 32.0 * sign; 16], [0.0; 16]].as_flattened(),
                    "{codec} {}",
                    k.name()
                );
            }
        }
    }
}

/// Every nibble with every scale: exact, as powers of two are.
#[test]
fn mxfp4_scales_are_powers_of_two() {
    let layout = Layout::new(Codec::Mxfp4, 16, 32).unwrap();
    for scale in (0..=250).step_by(5) {
        // Column c of each row has nibble c % 16.
        let nibble = |c: usize| (c % 16) as u8;
        let word = |line: usize| [0, 1, 2, 3].map(|b| nibble(8 * line + b) | nibble(8 * line + 4 + b) << 4);
        let mut bytes: Vec<u8> = (0..layout.lines()).flat_map(|line| word(line).repeat(PANEL)).collect();
        bytes.resize(layout.bytes(), scale);
        let m = Matrix::new(layout, &bytes).unwrap();
        let mut row = [0.0; 32];
        m.row(3, &mut row);
        for c in 0..32 {
            let mut x = vec![0.0; 32];
            x[c] = 127.0;
            for k in available() {
                assert_eq!(multiply(k, m, &groups(&x, 32), false)[0][3], 127.0 * row[c], "2^({scale} - 127), column {c}, {}", k.name());
            }
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    for codec in Codec::ALL {
        let (layout, bytes) = stored(codec, 48, 160, 5);
        let m = Matrix::new(layout, &bytes).unwrap();
        let x = noise(29 * 160, 6);
        for k in available() {
            let all = multiply(k, m, &groups(&x, 160), false);
            for (t, x) in x.chunks(160).enumerate() {
                let one = multiply(k, m, &groups(x, 160), false);
                for (u, y) in one.iter().enumerate() {
                    assert_eq!(*y, all[u * 29 + t], "{codec} {} token {t}", k.name());
                }
            }
        }
    }
}

#[test]
fn products_agree_with_the_decoded_matrix() {
    for codec in Codec::ALL {
        let (rows, cols) = (50, 200);
        let (layout, bytes) = stored(codec, rows, cols, 9);
        let m = Matrix::new(layout, &bytes).unwrap();
        let x = noise(cols, 10);
        let y = multiply(available()[0], m, &groups(&x, cols), false);
        let mut row = vec![0.0; cols];
        for r in 0..rows {
            m.row(r, &mut row);
            let want: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = row.iter().zip(&x).map(|(a, b)| f64::from((a * b).abs())).sum();
            let tolerance = size * if codec.has_scales() { 1.0 / 127.0 } else { 1e-6 };
            let got = f64::from(y[r / GROUP][r % GROUP]);
            assert!((got - want).abs() <= tolerance, "{codec} row {r}: {got} for {want}");
        }
    }
}

#[test]
fn rounding_keeps_what_is_not_finite() {
    for k in available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [0.5; GROUP];
            x[17] = bad;
            let mut b = [Block::default()];
            k.round(&[x], &mut b);
            assert!(!b[0].scale.is_finite(), "{bad} on {}", k.name());
        }
        let mut b = [Block::default()];
        k.round(&[[0.0; GROUP]], &mut b);
        assert_eq!(b[0], Block::default());
    }
}

/// Largest error of `f` against `exact`, relative to the result or, near zero, to one.
fn error(f: impl Fn(&mut Group), exact: impl Fn(f64) -> f64, low: f32, high: f32) -> f64 {
    let mut worst = 0f64;
    for i in 0..2000 {
        let x: Group = std::array::from_fn(|j| low + (high - low) * (i * GROUP + j) as f32 / (2000 * GROUP) as f32);
        let mut y = x;
        f(&mut y);
        for (x, y) in x.into_iter().zip(y) {
            let want = exact(f64::from(x));
            worst = worst.max((f64::from(y) - want).abs() / want.abs().max(1e-3));
        }
    }
    worst
}

#[test]
fn elementwise_functions_are_accurate_and_the_same_everywhere() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu = |x: f64| {
        // erf by its power series, good to 1e-10 in this range.
        let (z, mut term, mut sum) = (x / 2f64.sqrt(), x / 2f64.sqrt(), 0.0);
        for n in 0..120 {
            sum += term / f64::from(2 * n + 1);
            term *= -z * z / f64::from(n + 1);
        }
        0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
    };
    let tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh());
    let clamped = |x: f64| x.min(3.0) / (1.0 + (-1.7 * x.min(3.0)).exp());
    let act = |k: &'static dyn Kernels, a| move |x: &mut Group| k.activate(a, std::slice::from_mut(x));
    for k in available() {
        let worst = [
            error(|x| k.exp(x, 1.0), |x| (x - 1.0).exp(), -20.0, 20.0),
            error(|x| k.sigmoid(x), sigmoid, -30.0, 30.0),
            error(act(k, Activation::Silu), |x| x * sigmoid(x), -20.0, 20.0),
            error(act(k, Activation::Gelu), gelu, -4.0, 4.0),
            error(act(k, Activation::GeluTanh), tanh, -8.0, 8.0),
            error(act(k, Activation::Relu), |x| x.max(0.0), -2.0, 2.0),
            error(act(k, Activation::Clamped { alpha: 1.7, limit: 3.0 }), clamped, -10.0, 10.0),
        ];
        assert!(worst.iter().all(|&e| e < 4e-6), "{}: {worst:?}", k.name());
        for v in (0..4000).map(|i| i as f32 * 0.013 - 26.0) {
            for f in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Clamped { alpha: 1.7, limit: 3.0 }] {
                let (mut a, mut b) = ([v; GROUP], [v; GROUP]);
                k.activate(f, std::slice::from_mut(&mut a));
                scalar::Scalar.activate(f, std::slice::from_mut(&mut b));
                assert_eq!(a, b, "{f:?} of {v} on {}", k.name());
            }
        }
        let (mut a, mut b) = ([f32::NAN; GROUP], [f32::NAN; GROUP]);
        k.exp(&mut a, 0.0);
        k.activate(Activation::Relu, std::slice::from_mut(&mut b));
        assert!(a[0].is_nan() && b[0].is_nan());
    }
}

//! A product of rows with the matrix of the expert that each belongs to.
//!
//! One operation for all experts: from elementary ones, every expert's gradient would be widened with zeros to the gradient of the whole
//! stack, which costs more than the products.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::multiply::Matrix;

/// The matrices of all experts of a pool that have one role.
pub(crate) struct Stack {
    /// `[E, out, in]`, or `[E, in, out]`.
    pub(crate) weight: Tensor,
    /// Which of the two.
    pub(crate) inputs_first: bool,
}

/// `y_r = W_e · x_r` for rows `x` `[R, in]` in order of their expert, of which expert `e` has `counts[e]`: `[R, out]`.
pub(crate) fn grouped(x: &Tensor, stack: &Stack, counts: &Arc<[usize]>) -> Result<Tensor> {
    let op = Grouped { counts: counts.clone(), inputs_first: stack.inputs_first };
    if x.device().is_cpu() { x.apply_op2(&stack.weight, op) } else { composed(x, stack, counts) }
}

/// The same from elementary operations.
fn composed(x: &Tensor, stack: &Stack, counts: &[usize]) -> Result<Tensor> {
    let (mut start, mut parts) = (0, Vec::new());
    for (e, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let w = stack.weight.get(e)?;
        parts.push(x.narrow(0, start, n)?.matmul(&if stack.inputs_first { w } else { w.t()? })?);
        start += n;
    }
    if parts.is_empty() {
        let (_, outputs, inputs) = stack.weight.dims3()?;
        return Tensor::zeros((0, if stack.inputs_first { inputs } else { outputs }), x.dtype(), x.device());
    }
    Tensor::cat(&parts, 0)
}

struct Grouped {
    counts: Arc<[usize]>,
    inputs_first: bool,
}

impl CustomOp2 for Grouped {
    fn name(&self) -> &'static str {
        "grouped"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, w: &CpuStorage, w_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((x, x_at), (w, w_at)) = (values(x, x_layout)?, values(w, w_layout)?);
        let ((rows, inputs), (_, a, b)) = (x_layout.shape().dims2()?, w_layout.shape().dims3()?);
        let (x_strides, w_strides) = (x_layout.stride(), w_layout.stride());
        let outputs = if self.inputs_first { b } else { a };
        let mut y = vec![0.0; rows * outputs];
        let mut rest = &mut y[..];
        let mut start = 0;
        for (e, &n) in self.counts.iter().enumerate() {
            let (now, later) = rest.split_at_mut(n * outputs);
            let x = Matrix::new(x, x_at + start * x_strides[0], (n, inputs), (x_strides[0], x_strides[1]));
            let w = Matrix::new(w, w_at + e * w_strides[0], (a, b), (w_strides[1], w_strides[2]));
            x.times(if self.inputs_first { w } else { w.t() }, now);
            (rest, start) = (later, start + n);
        }
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let turned = Grouped { counts: self.counts.clone(), inputs_first: !self.inputs_first };
        let of_x = if x.track_op() { Some(gradient.apply_op2_no_bwd(w, &turned)?) } else { None };
        let outer = Outer { counts: self.counts.clone() };
        let (left, right) = if self.inputs_first { (x, gradient) } else { (gradient, x) };
        let of_w = if w.track_op() { Some(left.apply_op2_no_bwd(right, &outer)?) } else { None };
        Ok((of_x, of_w))
    }
}

/// For each expert `Σ left_r ⊗ right_r` over its rows: `[R, a]` and `[R, b]` give `[E, a, b]`.
struct Outer {
    counts: Arc<[usize]>,
}

impl CustomOp2 for Outer {
    fn name(&self) -> &'static str {
        "grouped-outer"
    }

    fn cpu_fwd(&self, left: &CpuStorage, left_layout: &Layout, right: &CpuStorage, right_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((left, left_at), (right, right_at)) = (values(left, left_layout)?, values(right, right_layout)?);
        let ((_, a), (_, b)) = (left_layout.shape().dims2()?, right_layout.shape().dims2()?);
        let (l, r) = (left_layout.stride(), right_layout.stride());
        let mut y = vec![0.0; self.counts.len() * a * b];
        let mut start = 0;
        for (&n, y) in self.counts.iter().zip(y.chunks_exact_mut((a * b).max(1))) {
            let left = Matrix::new(left, left_at + start * l[0], (n, a), (l[0], l[1]));
            let right = Matrix::new(right, right_at + start * r[0], (n, b), (r[0], r[1]));
            left.t().times(right, y);
            start += n;
        }
        Ok((CpuStorage::F32(y), (self.counts.len(), a, b).into()))
    }
}

/// The values of a tensor, and where its first one is.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<(&'a [f32], usize)> {
    match storage {
        CpuStorage::F32(values) => Ok((values, layout.start_offset())),
        _ => bail!("experts are multiplied in f32"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn values_and_gradients_are_those_of_elementary_operations() {
        let counts: Arc<[usize]> = [3, 0, 1, 2].into();
        let x = Var::rand(-1.0f32, 1.0, (6, 5), &Device::Cpu).unwrap();
        let weigh = Tensor::rand(-1.0f32, 1.0, (6, 7), &Device::Cpu).unwrap();
        for inputs_first in [true, false] {
            let w = Var::rand(-1.0f32, 1.0, if inputs_first { (4, 5, 7) } else { (4, 7, 5) }, &Device::Cpu).unwrap();
            let stack = Stack { weight: w.as_tensor().clone(), inputs_first };
            let results = [grouped(&x, &stack, &counts).unwrap(), composed(&x, &stack, &counts).unwrap()];
            let gradients = results.each_ref().map(|y| {
                let all = (y * &weigh).unwrap().sum_all().unwrap().backward().unwrap();
                [all.get(&x).unwrap().clone(), all.get(&w).unwrap().clone()]
            });
            let [[of_x, of_w], [of_x_composed, of_w_composed]] = gradients;
            for (a, b) in [(&results[0], &results[1]), (&of_x, &of_x_composed), (&of_w, &of_w_composed)] {
                let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(apart < 1e-5, "{apart}");
            }
            assert_eq!(of_w.get(1).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "nobody chose it");
        }
    }
}

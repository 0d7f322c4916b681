//! Adam for one variable, in place: a weight's moments and its step in one pass each, where composed operations take a dozen.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};

const BETAS: [f64; 2] = [0.9, 0.95];
const EPSILON: f64 = 1e-8;

/// A variable and the running means of its gradient and of that squared.
pub(super) struct Adam {
    pub(super) variable: Var,
    pub(super) moments: [Var; 2],
}

impl Adam {
    pub(super) fn new(variable: Var) -> Result<Adam> {
        let zeros = || Var::zeros(variable.shape(), variable.dtype(), variable.device());
        Ok(Adam { moments: [zeros()?, zeros()?], variable })
    }

    /// Step `step`, counted from 1, against `scale` times `gradient`. `decay`: share of the variable that is lost for a rate of 1.
    pub(super) fn step(&self, step: usize, gradient: &Tensor, scale: f64, rate: f64, decay: f64) -> Result<()> {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let [first, second] = BETAS.map(|beta| 1.0 - beta.powi(step));
        let advance = Advance { rate: (rate / first) as f32, second: (1.0 / second) as f32, keep: (1.0 - rate * decay) as f32 };
        let [m, v] = &self.moments;
        if !gradient.device().is_cpu() {
            let gradient = (gradient * scale)?;
            m.set(&((m.as_tensor() * BETAS[0])? + (&gradient * (1.0 - BETAS[0]))?)?)?;
            v.set(&((v.as_tensor() * BETAS[1])? + (gradient.sqr()? * (1.0 - BETAS[1]))?)?)?;
            let length = ((v.as_tensor() * f64::from(advance.second))?.sqrt()? + EPSILON)?;
            let kept = (self.variable.as_tensor() * f64::from(advance.keep))?;
            return self.variable.set(&(kept - (m.as_tensor() * f64::from(advance.rate))?.div(&length)?)?);
        }
        let gradient = gradient.contiguous()?;
        m.inplace_op2(&gradient, &Mean { beta: BETAS[0] as f32, scale: scale as f32, squared: false })?;
        v.inplace_op2(&gradient, &Mean { beta: BETAS[1] as f32, scale: scale as f32, squared: true })?;
        self.variable.inplace_op3(m, v, &advance)
    }
}

/// `m ← beta · m + (1 − beta) · g`, or with `g²`, of `scale` times the gradient.
struct Mean {
    beta: f32,
    scale: f32,
    squared: bool,
}

impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "running-mean"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, m_layout: &Layout, g: &CpuStorage, g_layout: &Layout) -> Result<()> {
        let (m, g) = (values_mut(m, m_layout)?, values(g, g_layout)?);
        let (keep, take) = (self.beta, 1.0 - self.beta);
        if self.squared {
            m.iter_mut().zip(g).for_each(|(m, g)| *m = keep * *m + take * (self.scale * g) * (self.scale * g));
        } else {
            m.iter_mut().zip(g).for_each(|(m, g)| *m = keep * *m + take * (self.scale * g));
        }
        Ok(())
    }
}

/// `x ← keep · x − rate · m / (√(second · v) + ε)`.
struct Advance {
    rate: f32,
    second: f32,
    keep: f32,
}

impl InplaceOp3 for Advance {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        m: &CpuStorage,
        m_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<()> {
        let (x, m, v) = (values_mut(x, x_layout)?, values(m, m_layout)?, values(v, v_layout)?);
        let &Advance { rate, second, keep } = self;
        x.iter_mut().zip(m.iter().zip(v)).for_each(|(x, (m, v))| *x = keep * *x - rate * m / ((second * v).sqrt() + EPSILON as f32));
        Ok(())
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("the optimiser is for contiguous f32 values"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("the optimiser is for contiguous f32 values"),
    }
}

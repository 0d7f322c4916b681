//! How a GPU may multiply: the choice, without a GPU.

/// How a GPU multiplies activations with q8 and q4 weights; other weights are always multiplied in f32.
///
/// All three add up groups of 32 columns in f32. Which one is fastest differs from GPU to GPU, so results of two devices compare best with
/// the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// In f32.
    Float,
    /// In f16, with activations divided by the largest magnitude of their group: relative error of a product about 5e-4.
    Half,
    /// In integers, with activations rounded to 8 bits, as on the CPU: relative error of a product about 6e-3.
    Int8,
}

impl Arithmetic {
    /// All of them, most exact first.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::Float, Arithmetic::Half, Arithmetic::Int8];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Arithmetic::Float => "float",
            Arithmetic::Half => "half",
            Arithmetic::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Arithmetic {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let known = Arithmetic::ALL.map(Arithmetic::name).join(", ");
        Arithmetic::ALL.into_iter().find(|a| a.name() == s).ok_or_else(|| format!("unknown arithmetic {s:?}; use one of {known}"))
    }
}

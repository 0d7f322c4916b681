//! Reads the text table `variants`: axes with their values, kernels with their axes. Used by the build script only.

use std::collections::HashSet;

/// One dimension of variation and its values, in order.
pub(crate) struct Axis {
    pub(crate) name: String,
    pub(crate) values: Vec<String>,
}

/// A kernel and the axes it is built for.
pub(crate) struct Entry {
    pub(crate) kernel: String,
    /// Indices into the axes.
    pub(crate) axes: Vec<usize>,
}

/// Parses the table; the error names the line.
pub(crate) fn parse(text: &str) -> Result<(Vec<Axis>, Vec<Entry>), String> {
    let (mut axes, mut entries): (Vec<Axis>, Vec<Entry>) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words.next()) {
            (None, _) => {}
            (Some("axis"), Some(name)) => axes.push(Axis { name, values: words.collect() }),
            (Some("kernel"), Some(kernel)) => {
                let find = |w: String| axes.iter().position(|a| a.name == w).ok_or(format!("variants:{}: no axis {w}", i + 1));
                entries.push(Entry { kernel, axes: words.map(find).collect::<Result<_, _>>()? });
            }
            _ => return Err(format!("variants:{}: {line:?} is neither an axis nor a kernel", i + 1)),
        }
    }
    Ok((axes, entries))
}

/// Every combination of values along `chosen`, the last axis fastest: indices of the values.
pub(crate) fn combinations(axes: &[Axis], chosen: &[usize]) -> Vec<Vec<usize>> {
    chosen.iter().fold(vec![Vec::new()], |so_far, &a| {
        so_far.iter().flat_map(|c| (0..axes[a].values.len()).map(move |v| [c.as_slice(), &[v]].concat())).collect()
    })
}

/// The symbols that a combination defines, such as `CODEC_Q4`.
pub(crate) fn defines(axes: &[Axis], chosen: &[usize], values: &[usize]) -> HashSet<String> {
    let symbol = |(&a, &v): (&usize, &usize)| format!("{}_{}", axes[a].name, axes[a].values[v]).to_uppercase();
    chosen.iter().zip(values).map(symbol).collect()
}

//! Storing a bundle's weights in fewer bits.
//!
//! Every matrix is read back, rounded to its new codec and written, in file order; what already takes as few bits or fewer is copied. Which
//! codec a matrix outside the pools gets follows from the same rules as when a checkpoint is converted.

pub(crate) mod activations;
mod heat;
pub(crate) mod report;

use std::ops::Range;
use std::path::Path;

use hotset::bundle::{Bundle, Manifest, RecordLayout, RecordView, TensorInfo};
use hotset::codec::{Codec, Matrix};
use hotset::plan::Role;
use hotset::profile::Activations;

use crate::failure::{Failure, Result};
use crate::packing::{self, Content, Stored, Usage, Values, Watch};

pub(crate) use heat::{Hot, hottest};

/// Tokens that an expert must have seen for its activations to count. Mean squares of so few samples are off by a sixth (`√(2/n)` for
/// normally distributed values), which is little beside the differences between columns, one or two orders of magnitude.
pub(crate) const LEAST_TOKENS: u64 = 64;

/// What the new bundle is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Options<'a> {
    /// Of experts, and of everything else unless told otherwise.
    pub(crate) codec: Codec,
    /// Of everything but experts and routers.
    pub(crate) dense: Option<Codec>,
    /// What the experts are given, to weigh rounding errors by.
    pub(crate) activations: Option<&'a Activations>,
    /// Experts that get a codec of their own.
    pub(crate) hot: Option<&'a Hot>,
    /// What was done to the bundle, a view, that its history does not say yet.
    pub(crate) done: Option<&'a str>,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of the new bundle.
    pub(crate) manifest: Manifest,
    /// Records that were rounded without regard to activations, because they had seen too few tokens.
    pub(crate) plain: Vec<String>,
}

/// Writes `bundle` to `target` in fewer bits; nothing appears there unless everything succeeds.
///
/// # Errors
/// When nothing would become smaller, activations are of another bundle, or a file cannot be read or written.
pub(crate) fn quantize(bundle: &Bundle, options: &Options<'_>, target: &Path, watch: Watch<'_>) -> Result<Done> {
    let mut manifest = bundle.manifest().clone();
    let mut records: Vec<Vec<Origin>> = (0..manifest.plan.pools.len())
        .map(|pool| (0..manifest.plan.pools[pool].records).map(|record| Origin { pool, record }).collect())
        .collect();
    recode(&mut manifest, options.codec, options.dense);
    if let Some(hot) = options.hot {
        hot.split(bundle, &mut manifest.plan, &mut records)?;
    }
    if manifest.plan == *bundle.plan() && manifest.tensors == bundle.manifest().tensors {
        return Err(Failure::new(format!(
            "{} is stored in {} already, there is nothing to gain by {}; quantize a bundle of higher precision",
            bundle.path().display(),
            stored(bundle),
            options.codec
        )));
    }
    if options.activations.is_some_and(|a| a.fingerprint != bundle.manifest().fingerprint) {
        return Err(Failure::new(format!(
            "these activations are of another bundle than {}; measure them with `hotset profile --activations`",
            bundle.path().display()
        )));
    }
    manifest.provenance.tool = format!("hotset {}", env!("CARGO_PKG_VERSION"));
    manifest.provenance.history.extend(options.done.map(str::to_owned));
    manifest.provenance.history.push(options.history());
    if options.hot.is_none() {
        manifest.provenance.origin.get_or_insert_with(|| bundle.manifest().fingerprint.clone());
    }

    let weights = records.iter().flatten().map(|origin| origin.importance(bundle, options.activations)).collect::<Vec<_>>();
    let layouts: Option<Vec<_>> = manifest.plan.pools.iter().map(|p| RecordLayout::of(p, manifest.plan.width)).collect();
    let layouts = layouts.ok_or_else(|| Failure::new("an expert is too large to store"))?;
    let dense = manifest.tensors.iter().map(|(name, info)| dense(bundle, name, info)).collect::<Result<_>>()?;
    let with_layouts = records.iter().zip(&layouts).flat_map(|(pool, layout)| pool.iter().map(move |origin| (origin, layout)));
    let contents = with_layouts.zip(&weights).map(|((origin, layout), weights)| origin.content(bundle, layout, weights.as_ref()));
    let contents = contents.collect::<Result<_>>()?;
    let plain = records.iter().flatten().zip(&weights).filter(|(_, w)| options.activations.is_some() && w.is_none());
    let plain = plain.map(|(o, _)| format!("{}.{}", bundle.plan().pools[o.pool].name, o.record)).collect();
    let manifest = packing::write(target, manifest.clone(), bundle.tokenizer(), (dense, contents), watch)?;
    Ok(Done { manifest, plain })
}

/// Gives everything in `manifest` the codec that it is asked to have, or leaves it the smaller one it has: `codec` for experts, `dense`,
/// or else the same, for all but routers.
pub(crate) fn recode(manifest: &mut Manifest, codec: Codec, dense: Option<Codec>) {
    for pool in &mut manifest.plan.pools {
        pool.codec = smaller(pool.codec, codec);
    }
    let special = Usage::special(&manifest.plan);
    for (name, info) in &mut manifest.tensors {
        if let TensorInfo::Matrix { codec: current, .. } = info {
            let wanted = match (special.get(name), dense) {
                (Some(Usage::Router), _) | (_, None) => special.get(name).unwrap_or(&Usage::Weight).codec(codec),
                (_, Some(dense)) => dense,
            };
            *current = smaller(*current, wanted);
        }
    }
}

impl Options<'_> {
    /// A line for the bundle's history.
    fn history(&self) -> String {
        let mut line = format!("quantized to {}", self.codec);
        if let Some(dense) = self.dense {
            line += &format!(", dense weights to {dense}");
        }
        if let Some(hot) = self.hot {
            line += &format!(", hot experts to {}", hot.codec);
        }
        if self.activations.is_some() {
            line += ", rounded by activations";
        }
        line
    }
}

/// The codec of a matrix that has `current` and might have `wanted`: bits that are gone do not come back.
pub(crate) fn smaller(current: Codec, wanted: Codec) -> Codec {
    if wanted.bits_per_weight() < current.bits_per_weight() { wanted } else { current }
}

/// The codecs of a bundle's experts, or of everything when it has none.
fn stored(bundle: &Bundle) -> String {
    let pools = bundle.plan().pools.iter().map(|p| p.codec);
    let tensors = bundle.manifest().tensors.values().filter_map(|t| t.layout().map(|l| l.codec));
    let all: Vec<Codec> = if bundle.plan().pools.is_empty() { tensors.collect() } else { pools.collect() };
    Codec::ALL.into_iter().filter(|c| all.contains(c)).map(Codec::name).collect::<Vec<_>>().join(" and ")
}

/// Values of the old bundle.
enum Read<'a> {
    Matrix(&'a str, Matrix<'a>),
    Vector(&'a str, &'a [f32]),
}

impl Values for Read<'_> {
    fn read(&self, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Read::Matrix(_, matrix) => rows.zip(out.chunks_exact_mut(cols)).for_each(|(r, out)| matrix.row(r, out)),
            Read::Vector(_, values) => out.copy_from_slice(values),
        }
        match out.iter().find(|v| !v.is_finite()) {
            None => Ok(()),
            Some(v) => Err(Failure::new(format!("{:?} holds the weight {v}; the bundle is damaged", self.name()))),
        }
    }

    fn name(&self) -> &str {
        match self {
            Read::Matrix(name, _) | Read::Vector(name, _) => name,
        }
    }
}

/// A dense tensor of the old bundle as `info` has it.
fn dense<'a>(bundle: &'a Bundle, name: &'a str, info: &TensorInfo) -> Result<Content<'a, Read<'a>>> {
    let stored = match info.layout() {
        None => {
            let vector = bundle.vector(name)?;
            Stored { values: Read::Vector(name, vector), rows: 1, cols: vector.len(), codec: None, importance: None, at: 0 }
        }
        Some(layout) => {
            let matrix = bundle.matrix(name)?;
            if matrix.layout() == layout {
                return Ok(Content::Bytes(matrix.bytes()));
            }
            let (rows, cols, codec) = (layout.rows, layout.cols, Some(layout.codec));
            Stored { values: Read::Matrix(name, matrix), rows, cols, codec, importance: None, at: 0 }
        }
    };
    Ok(Content::Values(vec![stored]))
}

/// A record of the old bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    pool: usize,
    record: u32,
}

/// What rounding errors weigh in each matrix of a record.
type Importance = Vec<(Role, Vec<f32>)>;

impl Origin {
    /// `None` when its experts have seen too little.
    fn importance(self, bundle: &Bundle, activations: Option<&Activations>) -> Option<Importance> {
        let pool = &activations?.pools[self.pool];
        if pool.counts[self.record as usize] < LEAST_TOKENS {
            return None;
        }
        let matrices = &bundle.record_layout(self.pool).matrices;
        matrices.iter().map(|&(role, ..)| Some((role, pool.importance(self.record, role)?))).collect()
    }

    /// The record in the layout of its new pool.
    fn content<'a>(self, bundle: &'a Bundle, layout: &RecordLayout, importance: Option<&'a Importance>) -> Result<Content<'a, Read<'a>>> {
        let (old, bytes) = (bundle.record_layout(self.pool), bundle.record(self.pool, self.record));
        if old == layout {
            return Ok(Content::Bytes(bytes));
        }
        let name = &bundle.plan().pools[self.pool].name;
        let missing = || Failure::new(format!("a record of pool {name:?} has not the size it should have"));
        let view = RecordView::new(old, bytes).ok_or_else(missing)?;
        let weights = |role| importance.and_then(|all| all.iter().find(|i| i.0 == role)).map(|i| &i.1[..]);
        let roles = old.matrices.iter().map(|m| m.0);
        let mut parts = Vec::new();
        for role in roles.clone() {
            parts.push((Read::Matrix(name, view.matrix(role).ok_or_else(missing)?), weights(role)));
        }
        parts.extend(roles.filter_map(|role| view.bias(role)).map(|bias| (Read::Vector(name, bias), None)));
        Ok(Content::record(parts, layout))
    }
}

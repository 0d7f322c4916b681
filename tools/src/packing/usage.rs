//! What a matrix outside the pools is for, and which codec that calls for.

use std::collections::BTreeMap;

use hotset::codec::Codec;
use hotset::plan::{Name, Plan, Score, Work};

/// What a matrix is for, as far as its codec is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Usage {
    /// Multiplied with activations.
    Weight,
    /// Part of a router's score network.
    Router,
    /// The embedding table or the output head.
    Vocabulary,
}

impl Usage {
    /// The codec of such a matrix in a bundle that was asked for in `requested`.
    pub(crate) fn codec(self, requested: Codec) -> Codec {
        match self {
            // A wrong expert costs more than a wrong digit, and routers are small.
            Usage::Router => Codec::F32,
            // Every logit is read off the head directly: 8 bits instead of 4 halve the demo model's divergence from f32 for 3 % of its file.
            // Of an untied table one row is read for each token, so its size costs no time.
            Usage::Vocabulary if matches!(requested, Codec::Q4 | Codec::Mxfp4) => Codec::Q8,
            Usage::Vocabulary | Usage::Weight => requested,
        }
    }

    /// The matrices of `plan` that are more than weights.
    pub(crate) fn special(plan: &Plan) -> BTreeMap<&Name, Usage> {
        let embeddings = plan.streams.iter().filter_map(|s| s.embedding.as_ref()).chain([&plan.embedding]);
        let vocabulary = embeddings.flat_map(|e| [Some(&e.table), e.positions.as_ref()]).flatten().chain([&plan.head.output.weight]);
        let routers = plan.steps.iter().filter_map(|s| s.routed.as_ref()).flat_map(|r| match &r.router.score {
            Score::Linear(linear) => vec![&linear.weight],
            Score::Mlp { hidden, output, .. } => vec![&hidden.weight, &output.weight],
            Score::Cosine { projection, centroids } => vec![&projection.weight, centroids],
            Score::Recurrent { input, hidden, output, .. } => vec![&input.weight, &hidden.weight, &output.weight],
        });
        // What decides how much an always-on part counts is a router of one expert.
        let shared = plan.steps.iter().filter_map(|s| match &s.work {
            Work::Ffn(ffn) => ffn.shared.as_ref()?.weigh.as_ref().map(|l| &l.weight),
            Work::Attention(_) | Work::Convolution(_) | Work::Identity => None,
        });
        let routers = routers.chain(shared).map(|name| (name, Usage::Router));
        vocabulary.map(|name| (name, Usage::Vocabulary)).chain(routers).collect()
    }
}

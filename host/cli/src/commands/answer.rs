//! The JSON of `ostrakon run`.

use super::run::Times;
use ostrakon_node::{Answer, Digest, Model};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The whole document.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    model: &'a str,
    package: String,
    profile: String,
    /// What computed.
    backend: &'static str,
    outputs: Vec<Output<'a>>,
    digest: String,
    fuel: u64,
    blocks: Vec<Block<'a>>,
    /// Of the receipt, if one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    timing_ms: Timing<'a>,
}

/// One text's.
#[derive(Serialize)]
pub(super) struct Output<'a> {
    text: &'a str,
    tokens: usize,
    /// Each number in the shortest form that reads back as the same 32 bits.
    embedding: &'a [f32],
    digest: String,
}

/// What a block cost.
#[derive(Serialize)]
struct Block<'a> {
    name: &'a str,
    kind: &'a str,
    shard: &'a str,
    fuel: u64,
    ms: f64,
}

/// Where the time went.
#[derive(Serialize)]
struct Timing<'a> {
    total: f64,
    load: f64,
    tokenise: f64,
    compute: f64,
    /// Of `compute`.
    by_kind: BTreeMap<&'a str, f64>,
    /// Of loading; they overlap.
    load_steps: BTreeMap<&'static str, f64>,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        model: &'a Model,
        texts: &'a [String],
        answer: &'a Answer,
        times: &'a Times,
        receipt: Option<Digest>,
    ) -> Self {
        let blocks = answer.blocks.iter().map(|b| Block {
            name: &b.name,
            kind: &b.kind,
            shard: &b.shard,
            fuel: b.fuel,
            ms: ms(b.time),
        });
        Self {
            model: model.name(),
            package: model.digest().to_string(),
            profile: model.profile().to_string(),
            backend: model.backend(),
            outputs: outputs(texts, answer),
            digest: answer.digest.to_string(),
            fuel: answer.fuel,
            blocks: blocks.collect(),
            receipt: receipt.map(|digest| digest.to_string()),
            timing_ms: Timing {
                total: ms(times.total),
                load: ms(times.load),
                tokenise: ms(times.tokenise),
                compute: ms(answer.compute),
                by_kind: times.kinds.iter().map(|(kind, &time)| (kind.as_str(), ms(time))).collect(),
                load_steps: times.steps.iter().map(|&(step, time)| (step, ms(time))).collect(),
            },
        }
    }
}

/// Each text with what came of it.
pub(super) fn outputs<'a>(texts: &'a [String], answer: &'a Answer) -> Vec<Output<'a>> {
    let output = |(text, output): (&'a String, &'a ostrakon_node::Output)| Output {
        text,
        tokens: output.tokens,
        embedding: &output.values,
        digest: output.digest.to_string(),
    };
    texts.iter().zip(&answer.outputs).map(output).collect()
}

/// Milliseconds, to the microsecond: finer is noise.
pub(super) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

//! Options of commands that generate text.

use super::{PluginsArg, TrustArgs, backend};
use clap::{Args, ValueHint};
use ostrakon_node::Arithmetic;
use ostrakon_node::generate::Sampling;
use std::path::PathBuf;

/// Who runs the blocks of what writes text.
#[derive(Debug, Args)]
pub(crate) struct SwarmArgs {
    /// Have nodes of a swarm run the blocks: addresses of nodes, as they print them when they are ready. The nodes can read the text
    #[arg(long, value_name = "ADDR,ADDR", value_delimiter = ',')]
    pub(crate) swarm: Vec<String>,
}

/// `ostrakon chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The package: a name in the store or a directory
    #[arg(value_name = "PACKAGE")]
    pub(crate) package: PathBuf,

    /// Say this and show the answer, instead of reading what to say line by line
    #[arg(value_name = "MESSAGE")]
    pub(crate) message: Option<String>,

    /// What the model is told before anything else
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    #[command(flatten)]
    pub(crate) swarm: SwarmArgs,

    /// Write the receipt of the last answer, signed by this machine's key: anyone can check it with `ostrakon audit`. The text is in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) receipt: Option<PathBuf>,

    /// Threads that compute; all of the machine's without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// What does the arithmetic; all give the same bytes: auto (the fastest native one that is exact here, measured once), cpu,
    /// openvino, cuda (an NVIDIA GPU; cuda:1 is the second one) or reference (plain WebAssembly, slow)
    #[arg(long, value_name = "BACKEND", value_parser = backend, default_value = "auto")]
    pub(crate) backend: Arithmetic,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token each time; 1 takes tokens as often as the model says
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) temperature: f32,

    /// Only the likeliest tokens that together have this probability
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) top_p: f32,

    /// Only the so many likeliest tokens; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) top_k: u32,

    /// What chance follows from: the same seed gives the same answer on every machine; without it a fresh one, which is shown
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Make tokens that were there less likely: 1 does nothing
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f32,
}

impl SamplingArgs {
    /// With this seed, unless one was given.
    pub(crate) fn sampling(&self, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed.unwrap_or(seed),
            repetition_penalty: self.repetition_penalty,
            ..Sampling::default()
        }
    }
}

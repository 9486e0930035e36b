//! Options of the command that answers programs.

use super::generate::SwarmArgs;
use super::{LogFormat, PluginsArg, TrustArgs, backend};
use clap::{Args, ValueHint};
use ostrakon_node::Arithmetic;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `ostrakon serve`.
#[derive(Debug, Args)]
#[command(after_help = "SIGTERM and SIGINT: finish what runs, then end; a second one ends at once.")]
pub(crate) struct ServeArgs {
    /// Packages, by directory or by name in the store; a package's name is the name of its model
    #[arg(value_name = "PACKAGE", value_hint = ValueHint::DirPath, required = true)]
    pub(crate) packages: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) swarm: SwarmArgs,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// A file with one key a line: only who sends one of them (`Authorization: Bearer KEY`) is answered
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_keys: Option<PathBuf>,

    /// Answer whoever reaches the address, even from other machines
    #[arg(long, conflicts_with = "api_keys")]
    pub(crate) no_keys: bool,

    /// A web page's origin that may ask (`https://example.org`), or `*`; may be given many times
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors: Vec<String>,

    /// Most tokens of a prompt and its answer; without it, what the model takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) context: Option<u32>,

    /// Answers that are written at once; further ones wait
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) sequences: u16,

    /// Answers that may wait; who comes then is told when to come back
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) waiting: u32,

    /// Requests at once, those that are still being sent or read included
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) requests: u32,

    /// Most bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=64 << 20))]
    pub(crate) body: u32,

    /// Compute every prompt anew: when an answer begins then does not tell whether somebody asked alike
    #[arg(long)]
    pub(crate) no_reuse: bool,

    /// Answers of which a receipt can be had, the last ones; 0: no receipts
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub(crate) receipts: u32,

    /// Threads of the arithmetic; without it, one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// What does the arithmetic; all give the same bytes: auto (the fastest native one that is exact here, measured once), cpu,
    /// openvino, cuda (an NVIDIA GPU; cuda:1 is the second one) or reference (plain WebAssembly, slow)
    #[arg(long, value_name = "BACKEND", value_parser = backend, default_value = "auto")]
    pub(crate) backend: Arithmetic,

    /// How log lines are written to standard error; which ones, OSTRAKON_LOG or RUST_LOG say
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log: LogFormat,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

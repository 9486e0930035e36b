//! The command line: every command and option, with the help people read.

mod generate;
mod serve;

pub(crate) use generate::ChatArgs;
pub(crate) use serve::ServeArgs;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use ostrakon_node::{Arithmetic, Native};
use std::path::PathBuf;

/// Run sharded models in sandboxed components, byte for byte the same on every machine.
#[derive(Debug, Parser)]
#[command(name = "ostrakon", version, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (not trusted, or not what its digest says);\n\
of `audit` and `dispute`: 0 accepted, 1 somebody is wrong, 2 it cannot be told.\n\
Files: OSTRAKON_HOME, else the platform's data and cache directories. `ostrakon doctor` shows them."
)]
pub(crate) struct Cli {
    /// Answer in JSON on standard output, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a signed package from a recipe or from a directory with a published model
    Pack(PackArgs),
    /// Run texts through a package
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Answer programs over HTTP, as OpenAI's API does
    Serve(ServeArgs),
    /// Run a node of a swarm
    Node(NodeArgs),
    /// Show the nodes of a swarm and the latest receipts
    Status(StatusArgs),
    /// Fetch a package from a swarm into the store
    Fetch(FetchArgs),
    /// Check a receipt: was the answer computed as it says?
    Audit(AuditArgs),
    /// Run a receipt's request again and keep the integer products, for an auditor
    Transcript(TranscriptArgs),
    /// Run one block of a receipt again and note its operations, to defend it in a dispute
    Trace(TraceArgs),
    /// Settle which of two receipts for one request is wrong, and on which operation
    Dispute(DisputeArgs),
    /// Say what a package, a component or a receipt is, and whether it would be let in
    Inspect(InspectArgs),
    /// Say what this machine offers and what to do about what is missing
    Doctor(DoctorArgs),
    /// Build plugins: core modules to components, blocks to reference blocks
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Whose packages may run on this machine
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Print the completions of a shell, to be sourced by it
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `ostrakon pack`.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// A recipe's name (`minilm`), a recipe file, a directory with model.safetensors, tokenizer.json and config.json, or a package to cut anew
    #[arg(value_name = "RECIPE|DIRECTORY", value_hint = ValueHint::AnyPath, required_unless_present = "onnx")]
    pub(crate) source: Option<PathBuf>,

    /// Pack a graph in floating point: ONNX, or OpenVINO IR (.xml, with its .bin beside it). Given many times, the graphs run in this order
    #[arg(long, visible_alias = "ir", value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "source", requires = "name")]
    pub(crate) onnx: Vec<PathBuf>,

    /// The name of the package, with --onnx
    #[arg(long, requires = "onnx", conflicts_with = "source")]
    pub(crate) name: Option<String>,

    /// The licence of the weights, with --onnx: an SPDX expression
    #[arg(long, requires = "onnx", default_value = "unknown")]
    pub(crate) licence: String,

    /// How far two machines may differ whatever the numbers, with --onnx
    #[arg(long, value_name = "X", requires = "onnx", default_value_t = ostrakon_node::Tolerance::default().absolute)]
    pub(crate) absolute: f64,

    /// How far two machines may differ in proportion to the numbers, with --onnx
    #[arg(long, value_name = "X", requires = "onnx", default_value_t = ostrakon_node::Tolerance::default().relative)]
    pub(crate) relative: f64,

    /// A setting for the block of the Nth --onnx, counted from 0: `1:input.0=hidden -> x` gives its input x what comes as hidden
    #[arg(long = "set", value_name = "N:NAME=VALUE", requires = "onnx")]
    pub(crate) settings: Vec<String>,

    /// Where the package goes; without it, into the store, where `run` finds it by name
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,

    /// Into how many parts the blocks are divided; the blocks of a part are placed together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) shards: u16,

    /// Cut a package anew that nobody signed; the new one is signed by you
    #[arg(long)]
    pub(crate) allow_unsigned: bool,

    /// Cut a package anew that was signed by a key that is not in the trust file; the new one is signed by you
    #[arg(long)]
    pub(crate) allow_unknown_signer: bool,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

/// `ostrakon run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A package's directory, or its name in the store
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) package: PathBuf,

    /// A text; may be given many times
    #[arg(long, value_name = "T")]
    pub(crate) text: Vec<String>,

    /// A UTF-8 file with one text a line (`-`: standard input); empty lines are left out
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// Give the input NAME the array in FILE.npy; may be given many times (packages of the float tier)
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) tensor: Vec<String>,

    /// Write each output as an NPY file into this directory (packages of the float tier)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,

    /// Threads of the arithmetic; without it, one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Most texts computed at once; without it, as many as fit the token bound
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,

    /// What does the arithmetic; all give the same bytes: auto (the fastest native one that is exact here, measured once), cpu,
    /// openvino, cuda (an NVIDIA GPU; cuda:1 is the second one) or reference (plain WebAssembly, slow)
    #[arg(long, value_name = "BACKEND", value_parser = backend, default_value = "auto")]
    pub(crate) backend: Arithmetic,

    /// What runs WebAssembly: a compiler, or an interpreter (slow, runs everywhere)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineArg,

    /// Write a receipt, signed by this machine's key: who computed what, for anyone to check
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) receipt: Option<PathBuf>,

    /// Leave the texts out of the receipt's file: an auditor is given them apart
    #[arg(long, requires = "receipt", conflicts_with = "private")]
    pub(crate) texts_apart: bool,

    /// Have a swarm run it: addresses of nodes, as they print them when they are ready
    #[arg(long, value_name = "ADDR,ADDR", value_delimiter = ',')]
    pub(crate) swarm: Vec<String>,

    /// How the swarm verifies the answer: none, quorum:K/N, audit:P% (audit:P%:later does not wait for the verdict), full
    #[arg(long, value_name = "HOW", requires = "swarm", value_parser = crate::commands::run_swarm::verify)]
    pub(crate) verify: Option<ostrakon_protocol::Verify>,

    /// Write the plan that the swarm followed, and the snapshot that it follows from into FILE.snapshot
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "swarm")]
    pub(crate) plan: Option<PathBuf>,

    /// Seconds for which the swarm is waited for
    #[arg(long, value_name = "N", requires = "swarm", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) within: u64,

    /// Run it here and have servers of the swarm only multiply shares, from which none of them learns the texts
    #[arg(long, requires = "swarm", conflicts_with_all = ["verify", "receipt", "plan", "within", "backend"])]
    pub(crate) private: bool,

    /// Among how many servers of different operators a text is split: all of them together could read it
    #[arg(long, value_name = "K", requires = "private", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) servers: u32,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    /// For tests: the SIMD level, instead of the best one
    #[arg(long, value_name = "LEVEL", env = "OSTRAKON_SIMD", hide = true)]
    pub(crate) simd: Option<String>,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

/// `ostrakon node`.
#[derive(Debug, Args)]
#[command(
    after_help = "SIGTERM and SIGINT: finish what runs, then end; a second one ends at once. SIGHUP: read the settings again."
)]
pub(crate) struct NodeArgs {
    /// The settings: see examples/node.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,

    /// How log lines are written to standard error; which ones, OSTRAKON_LOG or RUST_LOG say
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log: LogFormat,
}

/// `ostrakon status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Addresses of nodes, as they print them when they are ready; the first one that answers is believed
    #[arg(long, value_name = "ADDR,ADDR", value_delimiter = ',', required = true)]
    pub(crate) swarm: Vec<String>,
}

/// `ostrakon fetch`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// The package's name or digest
    #[arg(value_name = "NAME|DIGEST")]
    pub(crate) package: String,

    /// Addresses of nodes, as they print them when they are ready
    #[arg(long, value_name = "ADDR,ADDR", value_delimiter = ',', required = true)]
    pub(crate) swarm: Vec<String>,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

/// `--log`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// `ostrakon audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// The receipt
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "plan")]
    pub(crate) receipt: Option<PathBuf>,

    /// Look at a plan instead: does it follow from the snapshot and the component that it names?
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["receipt", "method"])]
    pub(crate) plan: Option<PathBuf>,

    /// The snapshot that the plan names; without it, the file beside the plan
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "plan")]
    pub(crate) snapshot: Option<PathBuf>,

    /// Run the blocks again on this machine (what is done without any of these)
    #[arg(long, group = "method")]
    pub(crate) full: bool,

    /// Check the integer products of the executor's transcript with secret vectors, and run only what is between them
    #[arg(long, group = "method", requires = "transcript")]
    pub(crate) freivalds: bool,

    /// Run the blocks again with the reference arithmetic in plain WebAssembly (slow)
    #[arg(long, group = "method")]
    pub(crate) reference: bool,

    /// The executor's transcript (see `ostrakon transcript`)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) transcript: Option<PathBuf>,

    /// The request's tensor NAME, for a receipt of the float tier; may be given many times
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) tensor: Vec<String>,

    /// Look at these blocks only, counted from 0
    #[arg(long, value_name = "N,N", value_delimiter = ',', conflicts_with = "sample")]
    pub(crate) blocks: Vec<usize>,

    /// Look at each block with this probability, between 0 and 1; at one at least
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) sample: Option<f64>,

    /// The package, by directory or name; without it, the one in the store with the digest on the receipt
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(crate) package: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) texts: TextsArgs,

    /// Threads of the arithmetic; without it, one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// What runs WebAssembly: a compiler, or an interpreter (slow, runs everywhere)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineArg,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| *p > 0.0 && *p <= 1.0).ok_or_else(|| "a number above 0, at most 1".to_owned())
}

/// A run of this machine that is to be made again, and where the outcome goes.
#[derive(Debug, Args)]
pub(crate) struct RerunArgs {
    /// The receipt
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) receipt: PathBuf,

    /// The file to write; only you can read it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,

    /// The package, by directory or name; without it, the one in the store with the digest on the receipt
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(crate) package: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) texts: TextsArgs,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

/// `ostrakon transcript`.
#[derive(Debug, Args)]
pub(crate) struct TranscriptArgs {
    #[command(flatten)]
    pub(crate) rerun: RerunArgs,

    /// These blocks only, counted from 0
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub(crate) blocks: Vec<usize>,
}

/// `ostrakon trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) rerun: RerunArgs,

    /// The block, by its name or its place in the package, counted from 0
    #[arg(long, value_name = "NAME|N")]
    pub(crate) block: String,

    /// The batch, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) batch: u32,
}

/// `ostrakon dispute`.
#[derive(Debug, Args)]
pub(crate) struct DisputeArgs {
    /// The first receipt
    #[arg(value_name = "A", value_hint = ValueHint::FilePath)]
    pub(crate) first: PathBuf,

    /// The second receipt
    #[arg(value_name = "B", value_hint = ValueHint::FilePath)]
    pub(crate) second: PathBuf,

    /// The first side's trace of the block on which they part (see `ostrakon trace`); without both, that block is run as a whole
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace_a: Option<PathBuf>,

    /// The second side's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace_b: Option<PathBuf>,

    /// Write the record of the dispute, signed by this machine's key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,

    /// The package, by directory or name; without it, the one in the store with the digest on the receipts
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(crate) package: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

/// The request of a receipt that is without it.
#[derive(Debug, Args)]
pub(crate) struct TextsArgs {
    /// The request's texts, if the receipt is without them; may be given many times
    #[arg(long, value_name = "T")]
    pub(crate) text: Vec<String>,

    /// A file with the request's texts, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,
}

/// Packages that would otherwise be refused.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Run a package that nobody signed
    #[arg(long)]
    pub(crate) allow_unsigned: bool,

    /// Run a package signed by a key that is not in the trust file
    #[arg(long)]
    pub(crate) allow_unknown_signer: bool,
}

/// `ostrakon inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A package's directory, its name in the store, a component file, or a receipt
    #[arg(value_name = "PACKAGE|COMPONENT|RECEIPT", value_hint = ValueHint::AnyPath)]
    pub(crate) target: PathBuf,
}

/// `ostrakon doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) plugins: PluginsArg,
}

/// `ostrakon plugin`.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Turn a core module built for wasm32-unknown-unknown into a component
    Build {
        /// The core module
        #[arg(value_name = "CORE.wasm", value_hint = ValueHint::FilePath)]
        core: PathBuf,
        /// The component to write
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
    },
    /// Compose a block with the reference arithmetic into one component
    Compose {
        /// The block's component
        #[arg(value_hint = ValueHint::FilePath)]
        block: PathBuf,
        /// The component that exports the arithmetic: exact-reference
        #[arg(value_hint = ValueHint::FilePath)]
        reference: PathBuf,
        /// The component to write
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: PathBuf,
    },
}

/// `ostrakon trust`.
#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// The trusted keys, and this machine's own
    List,
    /// Trust a key: packages signed with it may run
    Add {
        /// The public key, as `ostrakon trust list` of its owner shows it
        key: String,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// `--plugins`, where a command needs components that are in no package.
#[derive(Debug, Args)]
pub(crate) struct PluginsArg {
    /// The directory with built plugins; without it, build/plugins upward from here
    #[arg(long, value_name = "DIR", env = "OSTRAKON_PLUGINS", value_hint = ValueHint::DirPath)]
    pub(crate) plugins: Option<PathBuf>,
}

/// `--backend`.
pub(crate) fn backend(name: &str) -> Result<Arithmetic, String> {
    if name == "reference" {
        return Ok(Arithmetic::Reference);
    }
    Native::from_name(name).map(Arithmetic::Native).ok_or_else(|| format!("reference, {}", Native::NAMES))
}

/// `--engine`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum EngineArg {
    /// Compiles to native code
    #[default]
    Cranelift,
    /// Interprets
    Pulley,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_json_in_any_place() {
        for line in [
            "ostrakon --json doctor",
            "ostrakon doctor --json",
            "ostrakon run minilm --text a --text b --json --threads 2 --batch 8 --backend reference --engine pulley",
            "ostrakon pack minilm --out x --shards 3 --json",
            "ostrakon inspect minilm --json",
            "ostrakon trust list --json",
            "ostrakon serve minilm smollm2 --listen 127.0.0.1:0 --cors * --context 100 --no-reuse --json",
            "ostrakon trace a.receipt --block blocks.0 --batch 1 --out a.trace --json",
            "ostrakon dispute a.receipt b.receipt --trace-a a.trace --trace-b b.trace --out d --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().json, "{line}");
        }
    }

    #[test]
    fn zero_is_refused_where_it_makes_no_sense() {
        for line in ["run m --threads 0", "run m --batch 0", "pack m --shards 0"] {
            assert!(Cli::try_parse_from(["ostrakon"].into_iter().chain(line.split(' '))).is_err(), "{line}");
        }
    }
}

//! Why a node could not do what was asked, and what to do about it.

use crate::fetch::FetchError;
use crate::plugins::PluginError;
use crate::recipe::RecipeError;
use crate::tokens::TokenError;
use ostrakon_engine as engine;
use ostrakon_package as package;

/// Any error of this crate. Its sources tell the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No package of this name or path.
    #[error("there is no package `{name}`: {found}")]
    NoPackage {
        /// What was asked for.
        name: String,
        /// What was found instead.
        found: String,
        /// The names that there are.
        known: Vec<String>,
        /// Whether a recipe has this name.
        recipe: bool,
    },
    /// Neither a recipe nor a directory with a model.
    #[error("there is no recipe `{name}` and no directory with a model at this path")]
    NoRecipe {
        /// What was asked for.
        name: String,
        /// The recipes that there are.
        known: Vec<String>,
    },
    /// An option or a setting makes no sense on this machine.
    #[error("{0}")]
    Setting(String),
    /// The package cannot be opened.
    #[error(transparent)]
    Package(#[from] package::PackageError),
    /// A model cannot be read.
    #[error("the model cannot be imported: {0}")]
    Import(#[from] package::import::ImportError),
    /// The store cannot give or take a package.
    #[error(transparent)]
    Store(package::StoreError),
    /// Keys and trust cannot be read.
    #[error(transparent)]
    Trust(#[from] package::TrustError),
    /// The signing key cannot be read or made.
    #[error(transparent)]
    Key(#[from] package::KeyError),
    /// There is no directory for this user's files.
    #[error(transparent)]
    Home(#[from] package::HomeError),
    /// A recipe is unusable.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A model's files cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A plugin is not there.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A core module is no plugin or does not compose.
    #[error("{what} cannot be made into a component: {reason}")]
    Component {
        /// Which file.
        what: String,
        /// Why.
        reason: String,
    },
    /// A component is not let in.
    #[error("the component `{name}` is not let in: {source}")]
    Admission {
        /// Which.
        name: String,
        /// Which check refused it.
        source: engine::AdmissionError,
    },
    /// The engine does not start.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// The arithmetic of this machine does not start or failed its self-test.
    #[error("the arithmetic does not start: {0}")]
    Arithmetic(String),
    /// A graph in floating point cannot be used.
    #[error("the graph `{name}` cannot be run: {reason}")]
    Graph {
        /// Which, or its file.
        name: String,
        /// Why.
        reason: String,
    },
    /// What a node remembers cannot be read or written.
    #[error("the node's memory cannot be used: {0}")]
    Database(String),
    /// The swarm did not give an answer.
    #[error("{0}")]
    Swarm(String),
    /// A text cannot be tokenised.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// A block refused its settings or its input, trapped, or the host failed it.
    #[error("the block `{block}` failed: {source}")]
    Block {
        /// Which.
        block: String,
        /// The guest's word, the trap or the fault.
        source: engine::CallError,
    },
    /// The last block gave something that is not one row for each text.
    #[error("the package's last block gave a tensor of shape {got:?}, not one row for each of {texts} texts")]
    Output {
        /// Its shape.
        got: Vec<u32>,
        /// How many texts went in.
        texts: usize,
    },
    /// A receipt, transcript or trace cannot be understood.
    #[error("{path}: {source}")]
    Document {
        /// Which file.
        path: String,
        /// Why.
        source: ostrakon_protocol::DecodeError,
    },
    /// A transcript's file is cut off or damaged.
    #[error("{path}: {source}")]
    Transcript {
        /// Which file.
        path: String,
        /// Why.
        source: ostrakon_protocol::PayloadError,
    },
    /// The blocks of a package do not generate text as they should.
    #[error("the package does not generate text: {0}")]
    Decoder(String),
    /// No nodes can be chosen for a request, or nothing can be advised.
    #[error("there is no plan: {0}")]
    NoPlan(String),
    /// Two receipts have too little in common for a dispute.
    #[error(transparent)]
    Incomparable(#[from] ostrakon_protocol::dispute::Incomparable),
    /// A request was run again and did not give what its receipt says.
    #[error("this machine does not get what the receipt says: {0}")]
    NotReproduced(String),
    /// A package cannot be had from the swarm.
    #[error(transparent)]
    Transfer(#[from] crate::swarm::transfer::TransferError),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: String,
        /// The system's word.
        source: std::io::Error,
    },
}

impl From<package::StoreError> for NodeError {
    /// A package that is refused is refused, wherever it lies.
    fn from(error: package::StoreError) -> Self {
        match error {
            package::StoreError::Package(error) => Self::Package(error),
            other => Self::Store(other),
        }
    }
}

/// What a caller should make of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It was asked for in a way that makes no sense.
    Usage,
    /// It was refused: not trusted, or not what its digest says.
    Refused,
    /// It could not be done.
    Failed,
}

impl NodeError {
    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        use package::PackageError as P;
        match self {
            Self::NoPackage { .. } | Self::NoRecipe { .. } | Self::Setting(_) | Self::Incomparable(_) => {
                ErrorKind::Usage
            }
            Self::Package(P::NotAPackage { .. } | P::Shards { .. } | P::WouldOverwrite { .. }) => ErrorKind::Usage,
            Self::Package(P::Io { .. } | P::Model(_)) => ErrorKind::Failed,
            Self::Package(_) | Self::Admission { .. } => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        }
    }

    /// What led to it, in words. A cause that the text before already tells is not told again.
    pub fn causes(&self) -> Vec<String> {
        let message = self.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            if !causes.last().unwrap_or(&message).contains(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }

    /// The error and all that led to it.
    pub fn in_full(&self) -> String {
        [vec![self.to_string()], self.causes()].concat().join(": ")
    }

    /// What to do about it, where there is something to do that the text does not say.
    pub fn hint(&self) -> Option<String> {
        use package::PackageError as P;
        match self {
            Self::NoPackage { name, recipe: true, .. } => Some(format!("make it: ostrakon pack {name}")),
            Self::NoPackage { known, .. } if known.is_empty() => {
                Some(format!("the store is empty; make a package: ostrakon pack {}", list(crate::recipe::Recipe::known())))
            }
            Self::NoPackage { known, .. } => Some(format!("packages in the store: {}", known.join(", "))),
            Self::NoRecipe { known, .. } => Some(format!(
                "recipes: {}; a directory needs model.safetensors, tokenizer.json and config.json",
                known.join(", ")
            )),
            Self::Import(package::import::ImportError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Some("a directory needs model.safetensors, tokenizer.json and config.json".into())
            }
            Self::Package(P::NotSigned { .. }) => Some("for this run only: --allow-unsigned".into()),
            Self::Package(P::UnknownSigner { key, .. }) => Some(format!(
                "if this is the key that the package's author shows you, trust it from now on: ostrakon trust add {key} --name NAME; for this run only: --allow-unknown-signer"
            )),
            Self::Plugin(_) => {
                Some("build them with `make plugins`, or name their directory with --plugins or OSTRAKON_PLUGINS".into())
            }
            Self::Fetch(_) => Some(
                "put the files into a directory yourself and give it to `ostrakon pack`, or set OSTRAKON_HUB to a model hub's address".into(),
            ),
            _ => None,
        }
    }
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// For `map_err`: a file could not be used.
pub(crate) fn file_error(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> NodeError {
    let path = path.display().to_string();
    move |source| NodeError::File { action, path, source }
}

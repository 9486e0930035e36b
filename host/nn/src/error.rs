//! Why an operation was refused: one variant for each wasi-nn error code.

use crate::layers::LayerSourceError;
use ostrakon_exact::{LayerError, ShapeError};

/// An error of the wasi-nn host. The text says what was wrong and, where there is something to do
/// about it, what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NnError {
    /// Shapes, types, names or parameters do not fit the operation.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The layer's bytes do not describe a layer.
    #[error("invalid encoding: {0}")]
    InvalidEncoding(String),
    /// A remote backend did not answer in time. A host fault.
    #[error("timeout: {0}")]
    Timeout(String),
    /// The host could not do its work: a device failed, a file could not be read. A host fault.
    #[error("runtime error: {0}")]
    Runtime(String),
    /// The operation exists in wasi-nn but this host does not offer it.
    #[error("unsupported operation: {0}")]
    Unsupported(String),
    /// A quota of the caller would be exceeded.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The package has no layer of this name.
    #[error("not found: {0}")]
    NotFound(String),
    /// The name reaches outside the caller's package.
    #[error("not permitted: {0}")]
    Security(String),
    /// The operation failed for a reason the backend could not name. A host fault.
    #[error("unknown: {0}")]
    Unknown(String),
}

impl NnError {
    /// The name of the wasi-nn `error-code` it maps to, as the WIT spells it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "invalid-argument",
            Self::InvalidEncoding(_) => "invalid-encoding",
            Self::Timeout(_) => "timeout",
            Self::Runtime(_) => "runtime-error",
            Self::Unsupported(_) => "unsupported-operation",
            Self::TooLarge(_) => "too-large",
            Self::NotFound(_) => "not-found",
            Self::Security(_) => "security",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The text without the code.
    pub fn text(&self) -> &str {
        match self {
            Self::InvalidArgument(text)
            | Self::InvalidEncoding(text)
            | Self::Timeout(text)
            | Self::Runtime(text)
            | Self::Unsupported(text)
            | Self::TooLarge(text)
            | Self::NotFound(text)
            | Self::Security(text)
            | Self::Unknown(text) => text,
        }
    }

    /// The same error with some words before its text.
    #[must_use]
    pub(crate) fn before(mut self, words: &str) -> Self {
        let (Self::InvalidArgument(text)
        | Self::InvalidEncoding(text)
        | Self::Timeout(text)
        | Self::Runtime(text)
        | Self::Unsupported(text)
        | Self::TooLarge(text)
        | Self::NotFound(text)
        | Self::Security(text)
        | Self::Unknown(text)) = &mut self;
        text.insert_str(0, words);
        self
    }

    /// Whether the host is to blame, so that another host might not give this error.
    ///
    /// A guest must never see such an error, because what it did next would differ between machines:
    /// end the call and report a fault of the host. Every other error follows from the package, the
    /// caller's quotas and its calls alone, and is the same everywhere.
    pub const fn is_host_fault(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Runtime(_) | Self::Unknown(_))
    }
}

impl From<ShapeError> for NnError {
    fn from(error: ShapeError) -> Self {
        Self::InvalidArgument(error.0)
    }
}

impl From<LayerError> for NnError {
    fn from(error: LayerError) -> Self {
        Self::InvalidEncoding(error.0)
    }
}

impl From<LayerSourceError> for NnError {
    fn from(error: LayerSourceError) -> Self {
        match &error {
            LayerSourceError::NotFound { .. } => Self::NotFound(error.to_string()),
            LayerSourceError::Unreadable { .. } => Self::Runtime(error.to_string()),
        }
    }
}

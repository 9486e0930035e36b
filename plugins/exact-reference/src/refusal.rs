//! Why an operation was refused, as `wasi:nn` and as `exact` say it.

use crate::Component;
use crate::bindings::exports::ostrakon::plugin::exact;
use crate::bindings::exports::wasi::nn::errors::{self, ErrorCode, GuestError};
use ostrakon_exact::ShapeError;

/// A code and a text. It is the `error` resource too.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn invalid(text: String) -> Self {
        Self { code: ErrorCode::InvalidArgument, text }
    }

    pub(crate) fn too_large(text: String) -> Self {
        Self { code: ErrorCode::TooLarge, text }
    }

    /// The same, with the layer it is about in front.
    pub(crate) fn within(mut self, layer: &str) -> Self {
        if matches!(self.code, ErrorCode::InvalidArgument) {
            self.text = ["layer `", layer, "`: ", &self.text].concat();
        }
        self
    }
}

impl From<ShapeError> for Refusal {
    fn from(error: ShapeError) -> Self {
        Self::invalid(error.0)
    }
}

impl From<Refusal> for errors::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal)
    }
}

impl From<Refusal> for exact::Refusal {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            ErrorCode::TooLarge => Self::TooLarge(refusal.text),
            _ => Self::InvalidArgument(refusal.text),
        }
    }
}

impl errors::Guest for Component {
    type Error = Refusal;
}

impl GuestError for Refusal {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn data(&self) -> String {
        self.text.clone()
    }
}

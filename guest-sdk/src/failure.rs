//! Why a block could not do what was asked.

use crate::bindings::exports::ostrakon::plugin::block;
use crate::bindings::ostrakon::plugin::exact::Refusal;
use crate::bindings::wasi::nn::errors::Error;

/// Why a block could not do what was asked: the block's own word, never a fault of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The settings do not describe a block that this component can run.
    BadSettings(String),
    /// The input or the lengths do not have the shape or type the block needs.
    BadInput(String),
    /// An operation of the host refused.
    Operation(String),
}

impl Failure {
    /// A layer's refusal. Where the host does not name the layer, its name comes first.
    pub(crate) fn of_layer(name: &str, error: &Error) -> Self {
        let why = error.data();
        Self::Operation(if why.contains(name) { why } else { [name, ": ", &why].concat() })
    }

    /// The refusal of an operation without weights, after the operation's name.
    pub(crate) fn of_operation(name: &str, refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidArgument(why) | Refusal::TooLarge(why) => Self::Operation([name, ": ", &why].concat()),
        }
    }
}

impl From<Failure> for block::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::BadSettings(why) => Self::BadSettings(why),
            Failure::BadInput(why) => Self::BadInput(why),
            Failure::Operation(why) => Self::Operation(why),
        }
    }
}

//! What there is of float graphs in a build without OpenVINO: an error that says so.

use super::{FloatSettings, Port, RawGraph};
use crate::{Meter, NnError, Tensor};

/// Never made.
pub(crate) enum FloatGraph {}

impl FloatGraph {
    pub(crate) fn open(raw: &RawGraph, _: &FloatSettings) -> Result<Self, NnError> {
        raw.check()?;
        Err(NnError::Runtime(
            "this build runs no graphs in floating point: build with the cargo feature `openvino`".to_owned(),
        ))
    }

    pub(crate) fn inputs(&self) -> &[Port] {
        match *self {}
    }

    pub(crate) fn outputs(&self) -> &[Port] {
        match *self {}
    }

    pub(crate) fn compute(&self, _: &Meter, _: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, NnError> {
        match *self {}
    }
}

//! What the tensors of a graph are called outside of its block.
//!
//! Without settings, as in the graph, and all of them. With settings, those that are listed and no others:
//!
//! | setting | means |
//! |---|---|
//! | `input.0 = "x"` | the graph's input `x` is given as `x` |
//! | `input.1 = "hidden -> x"` | what is given as `hidden` is the graph's input `x` |
//! | `output.0 = "y"` | the graph's output `y` is given out; others are not |
//! | `output.1 = "y -> scores"` | the graph's output `y` is given out as `scores` |

use crate::bad_settings;
use crate::bindings::exports::ostrakon::plugin::tensors::{Failure, NamedTensor};

/// Between the name on the way in and the one on the way out.
const ARROW: &str = " -> ";

/// The names on one side of a graph.
pub(crate) struct Names {
    /// `input` or `output`.
    side: &'static str,
    /// From and to, in the order of the settings. None: all, as they are.
    listed: Vec<(String, String)>,
}

impl Names {
    pub(crate) fn new(side: &'static str) -> Self {
        Self { side, listed: Vec::new() }
    }

    /// Take the setting if it is of this side.
    pub(crate) fn take(&mut self, setting: &str, value: &str) -> Result<bool, Failure> {
        let Some(number) = setting.strip_prefix(self.side).and_then(|rest| rest.strip_prefix('.')) else {
            return Ok(false);
        };
        let count = self.listed.len();
        if number.parse() != Ok(count) {
            return bad_settings(&["setting `", setting, "`: they are numbered 0, 1, 2 and so on, in this order"]);
        }
        let (from, to) = value.split_once(ARROW).unwrap_or((value, value));
        if from.is_empty() || to.is_empty() || to.contains(ARROW) {
            return bad_settings(&["setting `", setting, "` is `", value, "`: needs a name, or `name -> other name`"]);
        }
        if self.listed.iter().any(|(f, t)| f == from || t == to) {
            return bad_settings(&["setting `", setting, "` names a tensor that is listed already"]);
        }
        self.listed.push((from.to_owned(), to.to_owned()));
        Ok(true)
    }

    /// What the graph is given.
    pub(crate) fn enter(&self, given: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Failure> {
        if self.listed.is_empty() {
            return Ok(given);
        }
        given
            .into_iter()
            .map(|(name, tensor)| match self.listed.iter().find(|(from, _)| *from == name) {
                Some((_, to)) => Ok((to.clone(), tensor)),
                None => {
                    let known: Vec<&str> = self.listed.iter().map(|(from, _)| from.as_str()).collect();
                    let text = ["there is no input `", &name, "`: this block takes ", &known.join(", ")];
                    Err(Failure::BadInput(text.concat()))
                }
            })
            .collect()
    }

    /// What the block gives out.
    pub(crate) fn leave(&self, made: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Failure> {
        if self.listed.is_empty() {
            return Ok(made);
        }
        let mut made: Vec<Option<NamedTensor>> = made.into_iter().map(Some).collect();
        self.listed
            .iter()
            .map(|(from, to)| {
                let found = made.iter_mut().find_map(|slot| slot.take_if(|(name, _)| name == from));
                match found {
                    Some((_, tensor)) => Ok((to.clone(), tensor)),
                    None => bad_settings(&["the graph has no output `", from, "`"]),
                }
            })
            .collect()
    }
}

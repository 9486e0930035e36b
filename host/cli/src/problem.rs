//! What a person or a program is told when something went wrong: what, why, and what to do.

use crate::style::Style;
use ostrakon_node::NodeError;
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Exit status of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It could not be done.
    Failed = 1,
    /// It was asked for in a way that makes no sense.
    Usage = 2,
    /// It was refused: not trusted, or not what its digest says.
    Refused = 3,
}

/// An error on its way to the person who caused it.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    status: Status,
    closed_pipe: bool,
    /// What else is known, for programs.
    details: Vec<(&'static str, Value)>,
}

impl Problem {
    fn new(status: Status, message: String) -> Self {
        Self { message, causes: Vec::new(), hint: None, status, closed_pipe: false, details: Vec::new() }
    }

    /// Why.
    pub(crate) fn causes(mut self, causes: impl Iterator<Item = String>) -> Self {
        self.causes.extend(causes);
        self
    }

    /// Something else that is known: in JSON only.
    pub(crate) fn detail(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// The command makes no sense as given.
    pub(crate) fn usage(message: String) -> Self {
        Self::new(Status::Usage, message)
    }

    /// It could not be done.
    pub(crate) fn failed(message: String) -> Self {
        Self::new(Status::Failed, message)
    }

    /// As an audit ends that could not be made: not with the status of a verdict against somebody.
    pub(crate) const fn undecided(mut self) -> Self {
        self.status = Status::Usage;
        self
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Nobody reads the answer any more.
    pub(crate) const fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }

    /// Write it, as JSON on standard output or for people on standard error.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let told = json && self.write_json(&mut io::stdout().lock()).is_ok();
        if !told && !self.closed_pipe {
            // Standard output may be what failed. Should this fail too, nobody is left to be told.
            let _ = self.write_text(&mut io::stderr().lock());
        }
        ExitCode::from(self.status as u8)
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut value = Map::new();
        value.insert("error".into(), self.message.as_str().into());
        value.insert("causes".into(), self.causes.as_slice().into());
        value.insert("hint".into(), self.hint.as_deref().into());
        value.extend(self.details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        writeln!(out, "{}", Value::Object(value))?;
        out.flush()
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let style = Style::of_stderr();
        writeln!(out, "{} {}", style.bad("error:"), self.message)?;
        for cause in &self.causes {
            writeln!(out, "  {} {cause}", style.faint("because:"))?;
        }
        match &self.hint {
            Some(hint) => writeln!(out, "{} {hint}", style.good("hint:")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        let status = match error.kind() {
            ostrakon_node::ErrorKind::Usage => Status::Usage,
            ostrakon_node::ErrorKind::Refused => Status::Refused,
            ostrakon_node::ErrorKind::Failed => Status::Failed,
        };
        Self { causes: error.causes(), hint: error.hint(), ..Self::new(status, error.to_string()) }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { closed_pipe, ..Self::failed(format!("cannot write the answer: {error}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_all_three_fields() {
        let mut out = Vec::new();
        Problem::usage("no".into()).hint("do").write_json(&mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::json!({ "error": "no", "causes": [], "hint": "do" }));
    }
}

//! The texts of a run: from options, a file or standard input, one text a line.
//!
//! Rules, the same for files and standard input: UTF-8, a byte order mark and the line ends of other
//! systems are not part of a text, a line with nothing on it is left out, and what cannot be read is
//! an error that names the line, never a guess.

use crate::problem::Problem;
use ostrakon_node::tokens::MAX_TEXT_BYTES;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// Most bytes of a file or of standard input.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// Texts, and how many empty lines were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) texts: Vec<String>,
    pub(crate) empty_lines: usize,
}

/// The texts of `--text`, then those of `--input`; standard input when neither is given and it is
/// not a terminal.
pub(crate) fn gather(texts: Vec<String>, file: Option<&Path>) -> Result<Input, Problem> {
    let mut input = match file {
        Some(path) if path.as_os_str() == "-" => from_reader("standard input", io::stdin().lock())?,
        Some(path) => {
            let name = path.display().to_string();
            let open = std::fs::File::open(path).map_err(|e| {
                Problem::usage(format!("cannot read {name}: {e}"))
                    .hint("--input takes a UTF-8 file with one text a line")
            })?;
            from_reader(&name, open)?
        }
        None if texts.is_empty() && !io::stdin().is_terminal() => from_reader("standard input", io::stdin().lock())?,
        None => Input::default(),
    };
    for (at, text) in texts.iter().enumerate() {
        if text.len() > MAX_TEXT_BYTES {
            return Err(too_long(&format!("text {} of --text", at + 1), text.len()));
        }
    }
    input.texts.splice(0..0, texts);
    if input.texts.is_empty() {
        return Err(Problem::usage("there is no text to run".into())
            .hint("give --text T (again and again), --input FILE, or one text a line on standard input"));
    }
    Ok(input)
}

fn from_reader(name: &str, reader: impl Read) -> Result<Input, Problem> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_INPUT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Problem::usage(format!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(Problem::usage(format!("{name} has more than {} MiB", MAX_INPUT_BYTES >> 20))
            .hint("run it in parts; texts do not depend on each other"));
    }
    parse(name, &bytes)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Input, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut input = Input::default();
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if body.is_empty() {
        return Ok(input);
    }
    for (at, line) in body.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_TEXT_BYTES {
            return Err(too_long(&format!("line {} of {name}", at + 1), line.len()));
        }
        let text = std::str::from_utf8(line).map_err(|e| {
            Problem::usage(format!("line {} of {name} is not UTF-8 (byte {})", at + 1, e.valid_up_to() + 1))
                .hint("convert it first, for example: iconv -f latin1 -t utf-8 FILE")
        })?;
        if text.trim().is_empty() {
            input.empty_lines += 1;
        } else {
            input.texts.push(text.to_owned());
        }
    }
    Ok(input)
}

fn too_long(what: &str, bytes: usize) -> Problem {
    Problem::usage(format!("{what} has {bytes} bytes, a text has at most {MAX_TEXT_BYTES}"))
        .hint("split it; a model reads a few hundred tokens of a text and no more")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> Input {
        parse("test", bytes).unwrap()
    }

    #[test]
    fn lines_become_texts() {
        assert_eq!(texts(b"a\nb c\n").texts, ["a", "b c"]);
        assert_eq!(texts(b"a\r\nb").texts, ["a", "b"]);
        assert_eq!(texts(b"\xef\xbb\xbfa\n").texts, ["a"]);
        assert_eq!(texts("naïve\n日本語\n".as_bytes()).texts, ["naïve", "日本語"]);
        assert_eq!(texts(b"  a  \n").texts, ["  a  "]);
    }

    #[test]
    fn empty_lines_are_counted_and_left_out() {
        assert_eq!(texts(b"a\n\n \t\r\nb\n\n"), Input { texts: vec!["a".into(), "b".into()], empty_lines: 3 });
        assert_eq!(texts(b""), Input::default());
    }

    #[test]
    fn what_is_not_utf8_is_named_by_line_and_byte() {
        let problem = parse("x.txt", b"fine\ncaf\xe9\n").unwrap_err();
        assert!(problem.to_string().contains("line 2 of x.txt is not UTF-8 (byte 4)"), "{problem}");
    }

    #[test]
    fn an_endless_line_is_refused() {
        let problem = parse("x", &vec![b'a'; MAX_TEXT_BYTES + 1]).unwrap_err();
        assert!(problem.to_string().contains("line 1 of x has"), "{problem}");
    }
}

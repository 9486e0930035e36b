//! `ostrakon chat`.

use super::{home, plain, policy, write_json};
use crate::args::ChatArgs;
use crate::problem::Problem;
use crate::runtime::runtime;
use crate::style::Style;
use crate::writer::Place;
use ostrakon_node::generate::{Done, End, GenerateRequest, Generator, Limits, Message, Piece, Sampling};
use ostrakon_node::{NodeError, RunOptions, load_or_create_key, receipt, store};
use ostrakon_protocol::{Generated, SigningKey};
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Instant;

/// Most bytes of what is said at once.
const MAX_LINE: u64 = 1 << 20;

/// What was answered, in JSON.
#[derive(Serialize)]
struct Turn<'a> {
    message: &'a str,
    answer: String,
    tokens: &'a [u32],
    end: &'static str,
    prompt_tokens: usize,
    reused_tokens: usize,
    seed: u64,
    first_token_ms: f64,
    total_ms: f64,
    tokens_per_second: Option<f64>,
    package: String,
    backend: &'static str,
}

/// An answer as it came.
struct Answer {
    text: String,
    generated: Generated,
    done: Done,
}

impl Answer {
    fn tokens(&self) -> &[u32] {
        &self.generated.answer
    }

    /// After the first one.
    fn tokens_per_second(&self) -> Option<f64> {
        let after = self.tokens().len().checked_sub(1).filter(|&count| count > 0)?;
        Some(after as f64 / self.done.total.saturating_sub(self.done.first).as_secs_f64())
    }

    const fn end(&self) -> &'static str {
        match self.done.end {
            End::Stop => "stop",
            End::Length => "length",
        }
    }
}

pub(crate) fn run(args: &ChatArgs, json: bool) -> Result<(), Problem> {
    let home = home()?;
    let directory = store::locate(&home, &args.package)?;
    let policy = policy(&home, &args.trust)?;
    let seed = match args.sampling.seed {
        Some(seed) => seed,
        None => ostrakon_node::generate::fresh_seed()?,
    };
    // A key that cannot be read is said before anything is said.
    let key = args.receipt.is_some().then(|| load_or_create_key(&home)).transpose()?;
    let sampling = args.sampling.sampling(seed);
    sampling.check().map_err(|error| Problem::usage(error.to_string()))?;
    let limits = Limits { sequences: 1, waiting: 1, ..Limits::default() };
    let place = Place { directory: &directory, policy: &policy, home: &home, options: &options(args), limits };
    // What waits for nodes outlives the generator.
    let runtime = (!args.swarm.swarm.is_empty()).then(runtime).transpose()?;
    let generator = match &runtime {
        Some(runtime) => place.of_swarm(&args.swarm.swarm, runtime.handle())?,
        None => Generator::open(&directory, &policy, &home, place.options, limits)?,
    };
    let mut messages: Vec<Message> = args.system.iter().map(|text| said("system", text)).collect();
    let last = match &args.message {
        Some(message) => Some(turn(&generator, &mut messages, message, args, &sampling, json)?),
        None => conversation(&generator, &mut messages, args, &sampling, json)?,
    };
    match (args.receipt.as_deref().zip(key), last) {
        (Some((path, key)), Some(generated)) => write(&generator, path, &key, generated, json),
        _ => Ok(()),
    }
}

/// Read what is said line by line. What was answered last, if anything was.
fn conversation(
    generator: &Generator,
    messages: &mut Vec<Message>,
    args: &ChatArgs,
    sampling: &Sampling,
    json: bool,
) -> Result<Option<Generated>, Problem> {
    let mut last = None;
    let asks = io::stdin().is_terminal() && !json;
    let style = Style::of_stdout();
    if asks {
        let entry = format!("{} on {}. An empty line ends it.", generator.manifest().name, generator.backend());
        writeln!(io::stdout(), "{}", style.faint(&entry))?;
    }
    loop {
        if asks {
            write!(io::stdout(), "{} ", style.strong(">"))?;
            io::stdout().flush()?;
        }
        let Some(line) = line()? else { return Ok(last) };
        if line.trim().is_empty() {
            if asks {
                return Ok(last);
            }
            continue;
        }
        last = Some(turn(generator, messages, &line, args, sampling, json)?);
    }
}

/// Write the receipt of an answer: the model runs it once more, in one piece.
fn write(generator: &Generator, path: &Path, key: &SigningKey, answer: Generated, json: bool) -> Result<(), Problem> {
    let start = Instant::now();
    let making = generator.receipt(answer).map_err(|refusal| NodeError::Setting(refusal.to_string()))?;
    let signed = making.blocking_signed(key)?;
    receipt::write_receipt(path, &signed)?;
    if !json {
        let facts = format!(
            "receipt {} in {}, {:.2} s",
            signed.receipt.digest(),
            path.display(),
            start.elapsed().as_secs_f64()
        );
        writeln!(io::stdout(), "{}", Style::of_stdout().faint(&plain(&facts)))?;
    }
    Ok(())
}

fn said(role: &str, text: &str) -> Message {
    Message { role: role.to_owned(), content: text.to_owned() }
}

fn line() -> Result<Option<String>, Problem> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_LINE + 1).read_line(&mut line);
    let read = read.map_err(|error| Problem::usage(format!("the line cannot be read: {error}")))?;
    if read as u64 > MAX_LINE {
        return Err(Problem::usage(format!("a line has more than {MAX_LINE} bytes")));
    }
    Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Say something, show the answer and give it as receipts have it.
fn turn(
    generator: &Generator,
    messages: &mut Vec<Message>,
    message: &str,
    args: &ChatArgs,
    sampling: &Sampling,
    json: bool,
) -> Result<Generated, Problem> {
    messages.push(said("user", message));
    let answer = answer(generator, messages, args, sampling, !json)?;
    let speed = answer.tokens_per_second();
    if json {
        write_json(&Turn {
            message,
            end: answer.end(),
            prompt_tokens: answer.generated.prompt.len(),
            reused_tokens: answer.done.reused,
            seed: sampling.seed,
            first_token_ms: answer.done.first.as_secs_f64() * 1e3,
            total_ms: answer.done.total.as_secs_f64() * 1e3,
            tokens_per_second: speed,
            package: generator.digest().to_string(),
            backend: generator.backend(),
            tokens: answer.tokens(),
            answer: answer.text.clone(),
        })?;
    } else {
        let mut facts = vec![format!("{} tokens", answer.tokens().len())];
        facts.extend(speed.map(|speed| format!("{speed:.1} a second")));
        facts.push(format!("first after {:.0} ms", answer.done.first.as_secs_f64() * 1e3));
        if answer.done.end == End::Length {
            facts.push(format!("cut at {} tokens: --max-tokens", answer.tokens().len()));
        }
        if sampling.temperature > 0.0 {
            facts.push(format!("--seed {}", sampling.seed));
        }
        writeln!(io::stdout(), "\n{}", Style::of_stdout().faint(&facts.join(", ")))?;
    }
    messages.push(said("assistant", &answer.text));
    Ok(answer.generated)
}

fn answer(
    generator: &Generator,
    messages: &[Message],
    args: &ChatArgs,
    sampling: &Sampling,
    shown: bool,
) -> Result<Answer, Problem> {
    let prompt = generator.prompt_of(messages)?;
    let request = GenerateRequest {
        client: 0,
        prompt,
        max_tokens: args.max_tokens,
        sampling: sampling.clone(),
        stop: generator.stop_tokens().to_vec(),
        likelihoods: None,
        prompt_likelihoods: false,
        reuse: true,
    };
    let mut pieces = generator.ask(request.clone()).map_err(|refusal| NodeError::Setting(refusal.to_string()))?;
    let mut stream = generator.text_stream(Vec::new());
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut show = |piece: String| -> io::Result<()> {
        if shown {
            // A model's text is not trusted with the terminal; lines are all that it may break.
            let lines: Vec<String> = piece.split('\n').map(plain).collect();
            write!(io::stdout(), "{}", lines.join("\n"))?;
            io::stdout().flush()?;
        }
        text.push_str(&piece);
        Ok(())
    };
    while let Some(piece) = pieces.blocking_next() {
        match piece {
            Piece::Token { token, .. } => {
                tokens.push(token);
                show(stream.push(token))?;
            }
            Piece::Prompt(_) => {}
            Piece::Done(done) => {
                show(stream.finish())?;
                return Ok(Answer { text, generated: generator.answered(&request, tokens), done });
            }
            Piece::Failed(reason) => return Err(NodeError::Decoder(reason).into()),
            Piece::Unavailable(reason) => return Err(NodeError::Swarm(reason).into()),
        }
    }
    Err(NodeError::Decoder("the model stopped in the middle of an answer".into()).into())
}

fn options(args: &ChatArgs) -> RunOptions {
    RunOptions {
        arithmetic: args.backend,
        threads: args.threads.map(usize::from),
        plugins: args.plugins.plugins.clone(),
        ..RunOptions::default()
    }
}

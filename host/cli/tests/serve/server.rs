//! A server as a process of its own, and a client that says exactly what it is told to.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A command with the tests' home.
pub(crate) fn command() -> Command {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/home");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
    command.env("OSTRAKON_HOME", home).env_remove("OSTRAKON_LOG").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A server that is killed when the test ends.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) ready: Value,
    _files: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Of the model that writes noise.
    pub(crate) fn writer(arguments: &[&str]) -> Self {
        Self::start(arguments, |files| vec![ostrakon_tests::tiny_writer::package(files, 1)])
    }

    /// Of these packages.
    pub(crate) fn start(arguments: &[&str], packages: impl FnOnce(&Path) -> Vec<PathBuf>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let packages = packages(files.path());
        let mut command = command();
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--threads", "1", "--allow-unknown-signer"]);
        // Which one is faster here is not what is tested.
        command.args(["--backend", "cpu"]);
        command.args(arguments).args(&packages);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        Self { child, ready, _files: files }
    }

    pub(crate) fn address(&self) -> &str {
        self.ready["address"].as_str().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Send these lines and this body, and read everything that comes.
    pub(crate) fn exchange(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
        // A refusal may come, and the connection end, before all is sent.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::of(&bytes)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost"), b"")
    }

    /// Send something that is said to be JSON.
    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}",
            body.len()
        );
        self.exchange(&head, body)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// The answer to what must be answered.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    /// A number that the server counts.
    pub(crate) fn counted(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Wait until this is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !so(self) {
            assert!(began.elapsed() < SOON, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pairs = lines.map(|line| line.split_once(": ").unwrap());
        let headers: Vec<_> = pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let rest = &bytes[end + 4..];
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { whole(rest) } else { rest.to_vec() };
        Self { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{}: {e}", self.text()))
    }

    /// The error, which must have the shape of one: its status, its field, its code.
    pub(crate) fn error(&self) -> (u16, Option<String>, Option<String>) {
        let body = self.json();
        let keys: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"], "{body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty() && body["error"]["type"].is_string());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let word = |name: &str| body["error"][name].as_str().map(str::to_owned);
        (self.status, word("param"), word("code"))
    }

    /// The events of a stream that came to its end.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let text = self.text();
        let mut events: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""), "{text}");
        assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
        events.into_iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

/// What was answered, without the names of the receipts, which no two answers share.
pub(crate) fn choices(answer: &Value) -> Value {
    let mut choices = answer["choices"].clone();
    for choice in choices.as_array_mut().unwrap() {
        choice.as_object_mut().unwrap().remove("ostrakon").unwrap();
    }
    choices
}

fn whole(mut chunked: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = chunked.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&chunked[..end]).unwrap(), 16).unwrap();
        let Some(data) = chunked.get(end + 2..end + 2 + size) else { break };
        all.extend_from_slice(data);
        chunked = chunked.get(end + 4 + size..).unwrap_or_default();
    }
    all
}

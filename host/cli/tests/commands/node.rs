//! `ostrakon node` and `ostrakon status` as processes: what they say when something is wrong, signals, metrics.
#![cfg(unix)]

use ostrakon_tests::packed::plugins;
use ostrakon_tests::tiny::Tiny;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

struct Machine {
    tiny: Tiny,
}

/// A node that is killed when the test ends.
struct Running {
    child: Child,
    ready: Value,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    fn new() -> Self {
        let machine = Self { tiny: Tiny::new() };
        machine.tiny.honest(2);
        machine
    }

    fn config(&self, name: &str, more: &str) -> PathBuf {
        let path = self.tiny.path().join(format!("{name}.toml"));
        let text = format!("operator = \"{name}\"\nplugins = {:?}\n{more}", fs::canonicalize(plugins()).unwrap());
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.env("OSTRAKON_HOME", self.tiny.path().join(name)).env_remove("OSTRAKON_LOG").env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }

    fn node(&self, name: &str) -> Running {
        let log = self.tiny.path().join(format!("{name}.log"));
        let mut command = self.command(name);
        command
            .args(["node", "--json", "--log", "json", "--config"])
            .arg(self.tiny.path().join(format!("{name}.toml")));
        let mut child = command.stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        Running { child, ready, log }
    }

    fn refused(&self, config: &std::path::Path) -> (i32, String) {
        let output = self.command("refused").args(["node", "--config"]).arg(config).output().unwrap();
        (output.status.code().unwrap(), text(output))
    }
}

fn text(output: Output) -> String {
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
}

impl Running {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.ready["http"].as_str().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Wait until the log has these words.
    fn logged(&self, words: &str) -> String {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).unwrap();
            if let Some(line) = log.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(began.elapsed() < SOON, "{words}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(began.elapsed() < SOON, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const EXECUTION: &str = "roles = [\"execution\"]\nhttp = \"127.0.0.1:0\"\nbackend = \"cpu\"\nthreads = 1\n";
const PACKAGE: &str = "packages = [{ package = \"./honest-2\" }]\n[trust]\nallow_unknown = true\n";

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let machine = Machine::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http = format!("roles = [\"participation\"]\nhttp = \"{}\"\n", taken.local_addr().unwrap());
    let all: [(&str, i32, &[&str]); 7] = [
        ("roles = [\"execution\"]\n", 2, &["wrong.toml", "`packages` is empty"]),
        (
            "roles = [\"participation\"]\nlisten = [\"/ip4/300.1.1.1/tcp/1\"]\n",
            2,
            &["/ip4/300.1.1.1/tcp/1", "cannot be used"],
        ),
        (&http, 2, &["`http`", "cannot listen"]),
        ("roles = [\"execution\"]\npackages = [{ package = \"./nothing\" }]\n", 2, &["nothing"]),
        (
            "roles = [\"execution\"]\npackages = [{ package = \"./honest-2\", blocks = \"7-900\" }]\n[trust]\nallow_unknown = true\n",
            2,
            &["no blocks 7-900", "the package has the blocks 0-4"],
        ),
        ("roles = [\"execution\"]\npackages = [{ package = \"./honest-2\" }]\n", 3, &["signed by"]),
        ("roles = [\"verification\"]\nplugins = \"/nowhere\"\n", 2, &["duplicate key"]),
    ];
    for (settings, status, words) in all {
        let (code, said) = machine.refused(&machine.config("wrong", settings));
        for word in words {
            assert!(said.contains(word), "{settings}: {said}");
        }
        assert_eq!(code, status, "{settings}: {said}");
    }
    let (code, said) = machine.refused(&machine.tiny.path().join("none.toml"));
    assert!(code == 2 && said.contains("none.toml: cannot be read"), "{said}");
    let (code, said) = machine.refused("/dev/zero".as_ref());
    assert!(code == 2 && said.contains("a special file"), "{said}");
    let output = machine.command("refused").args(["status", "--swarm", "/ip4/127.0.0.1/tcp/1"]).output().unwrap();
    assert!(!output.status.success());
    let same = ["run", "some", "--swarm", "/ip4/127.0.0.1/tcp/1", "--text", "t"];
    for (receipt, plan) in [("x", "x"), ("./x", "x"), ("x.snapshot", "x")] {
        let mut command = machine.command("refused");
        command.current_dir(machine.tiny.path()).args(same).args(["--receipt", receipt, "--plan", plan]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(output).contains("--receipt and --plan would both write"));
    }
}

/// What listens and never says a word is a node that is frozen.
#[test]
fn who_never_answers_is_not_waited_for_long() {
    let machine = Machine::new();
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", frozen.local_addr().unwrap().port());
    let run = ["run", "some", "--swarm", &address, "--text", "t", "--within", "2"];
    for (command, most) in [(&run[..], 4), (&["status", "--swarm", &address], 8)] {
        let began = Instant::now();
        let output = machine.command("client").args(command).output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(most), "{command:?}: {:?}", began.elapsed());
        assert_eq!(output.status.code(), Some(1));
        let said = text(output);
        assert!(said.contains("within 2 s") || said.contains("within 5 s"), "{said}");
    }
}

#[test]
fn a_node_serves_reloads_and_drains() {
    let machine = Machine::new();
    machine.config("alice", &format!("{EXECUTION}{PACKAGE}"));
    let mut alice = machine.node("alice");
    let address = alice.ready["addresses"][0].as_str().unwrap().to_owned();
    assert!(alice.get("/healthz").contains("200 OK") && alice.get("/healthz").contains("ready"));
    let metrics = alice.get("/metrics");
    for line in ["ostrakon_slots 16", "ostrakon_fleet_nodes 1", "ostrakon_sessions_total 0", "# EOF"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    let status = |options: &[&str]| {
        let output = machine.command("client").args(["status", "--swarm", &address]).args(options).output().unwrap();
        assert!(output.status.success(), "{}", text(output));
        text(output)
    };
    let table = status(&[]);
    for word in ["NODE", "alice", "execution", "0/16", "1.000", "ready"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let document: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!(document["nodes"][0]["node"], alice.ready["node"]);
    assert_eq!(document["nodes"][0]["served"][0]["from"], 0);

    // Two nodes cannot have one home.
    let second = machine
        .command("alice")
        .args(["node", "--config"])
        .arg(machine.config("second", "roles = [\"participation\"]\n"))
        .output();
    let second = second.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(second).contains("another node uses this home"));

    // A file that makes no sense changes nothing; one that does is taken.
    machine.config("alice", "roles = [\"king\"]\n");
    alice.signal("-HUP");
    let line = alice.logged("the new settings are not taken");
    assert!(line.contains("king") && serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    assert!(alice.get("/healthz").contains("200 OK"));
    let only = PACKAGE.replace("\"./honest-2\"", "\"./honest-2\", blocks = \"0\"");
    machine.config("alice", &format!("{EXECUTION}{only}").replace("threads = 1", "threads = 2"));
    alice.signal("-HUP");
    assert!(alice.logged("only a restart can change").contains("threads"));
    assert!(alice.get("/metrics").contains("ostrakon_blocks_served 1\n"));

    alice.signal("-TERM");
    assert_eq!(alice.ended(), 0, "nothing ran: it ends well");
    alice.logged("everything was done");
}

#[test]
fn a_package_that_is_not_here_comes_from_the_swarm() {
    let machine = Machine::new();
    machine.config("alice", &format!("{EXECUTION}{PACKAGE}"));
    let alice = machine.node("alice");
    let name = alice.ready["addresses"][0].as_str().unwrap();
    let document = machine.command("client").args(["--json", "status", "--swarm", name]).output().unwrap();
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    let package = document["nodes"][0]["served"][0]["package"].as_str().unwrap();
    let fetched = PACKAGE.replace("./honest-2", package);
    machine.config("bob", &format!("{EXECUTION}bootstrap = [\"{name}\"]\n{fetched}"));
    let bob = machine.node("bob");
    assert!(bob.get("/metrics").contains("ostrakon_draining 0"));
    assert!(!bob.get("/metrics").contains("ostrakon_blocks_served 0\n"));
    let mut fetch = machine.command("carol");
    fetch.args(["fetch", package, "--swarm", name, "--allow-unknown-signer", "--json"]);
    let output = fetch.output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!((&said["digest"], &said["fetched"]), (&package.into(), &said["bytes"]));
}

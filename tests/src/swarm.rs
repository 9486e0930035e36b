//! A swarm of real processes: each node is `ostrakon node` with a home, a port and, where the system allows it, a network
//! namespace of its own, so that it can be killed, frozen, slowed and cut off like a machine.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Most time that a node takes to start: it loads its packages first.
const START: Duration = Duration::from_secs(120);

/// What a node of a test is to be.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Who runs it.
    pub operator: String,
    /// `execution`, `verification`, `scheduling`, `participation`.
    pub roles: Vec<&'static str>,
    /// Packages, by directory, with the shards that are served; none: all.
    pub packages: Vec<(PathBuf, Vec<String>)>,
    /// The directory of its plugins; `None`: the ones that were built.
    pub plugins: Option<PathBuf>,
    /// What computes; `None`: what the node chooses.
    pub backend: Option<&'static str>,
    /// Where it looks for libraries first, such as those of an emulated GPU.
    pub libraries: Option<PathBuf>,
}

/// A node as a process.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub part: Part,
    /// Its libp2p address.
    pub address: String,
    /// Its public key, once it has started.
    pub key: String,
    /// The address of its metrics.
    pub http: String,
    directory: PathBuf,
    bootstrap: Option<String>,
    metrics: String,
    port: u16,
    namespace: Option<Namespace>,
    child: Option<Child>,
    log: PathBuf,
}

/// A swarm.
#[derive(Debug)]
pub struct Swarm {
    /// Its nodes.
    pub nodes: Vec<Node>,
    directory: tempfile::TempDir,
    binary: PathBuf,
    bridge: Option<Bridge>,
}

impl Swarm {
    /// Start nodes, the first of which the others begin with. With `apart`, each in a network namespace of its own if this
    /// process may make them.
    ///
    /// # Panics
    /// When a node does not start.
    pub fn start(binary: &Path, parts: &[Part], apart: bool) -> Self {
        let directory = expect(tempfile::tempdir());
        let bridge = if apart { Bridge::make(parts.len()) } else { None };
        let mut swarm = Self { nodes: Vec::new(), directory, binary: binary.to_owned(), bridge };
        for part in parts {
            swarm.add(part.clone());
        }
        swarm
    }

    /// Start one more node.
    ///
    /// # Panics
    /// When it does not start.
    pub fn add(&mut self, part: Part) -> usize {
        let at = self.nodes.len();
        let directory = self.directory.path().join(format!("node-{at}"));
        expect(fs::create_dir_all(&directory));
        let namespace = self.bridge.as_ref().map(|bridge| bridge.namespace(at));
        let ip = namespace.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |n| n.ip.clone());
        let port = if namespace.is_some() { 4001 } else { free_port() };
        let log = directory.join("log");
        let bootstrap = self.nodes.first().map(|node| node.address.clone());
        let metrics = format!("{ip}:{}", if namespace.is_some() { 9464 } else { free_port() });
        let address = format!("/ip4/{ip}/tcp/{port}");
        let mut node = Node {
            part,
            address,
            key: String::new(),
            http: String::new(),
            directory,
            bootstrap,
            metrics,
            port,
            namespace,
            child: None,
            log,
        };
        node.write_settings();
        node.start(&self.binary);
        self.nodes.push(node);
        at
    }

    /// Addresses of the nodes that take jobs.
    pub fn schedulers(&self) -> Vec<String> {
        self.nodes.iter().filter(|n| n.part.roles.contains(&"scheduling")).map(|n| n.address.clone()).collect()
    }

    /// The node at this place.
    ///
    /// # Panics
    /// There is none.
    pub fn node(&mut self, at: usize) -> &mut Node {
        expect(self.nodes.get_mut(at).ok_or("no such node"))
    }

    /// Start a node again that was killed.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self, at: usize) {
        let binary = self.binary.clone();
        self.node(at).start(&binary);
    }

    /// Whether nodes can be cut off.
    pub const fn is_apart(&self) -> bool {
        self.bridge.is_some()
    }

    /// The end of every node's log.
    pub fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let log = fs::read_to_string(&node.log).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let last = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
            let _ = writeln!(text, "--- node {at} ({})\n{}", node.part.operator, last.join("\n"));
        }
        text
    }
}

impl Node {
    /// The file with its settings.
    pub fn settings(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    /// Its `OSTRAKON_HOME`.
    pub fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Write its settings anew; `HUP` has it read them.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn write_settings(&self) {
        let Part { operator, roles, packages, plugins, backend, libraries: _ } = &self.part;
        let plugins = plugins.clone().unwrap_or_else(crate::packed::plugins);
        let http = &self.metrics;
        let mut text = format!("operator = {operator:?}\nroles = {roles:?}\nlisten = [{:?}]\n", self.address);
        let _ = writeln!(text, "http = {http:?}\nplugins = {plugins:?}\nthreads = 1");
        if let Some(bootstrap) = &self.bootstrap {
            let _ = writeln!(text, "bootstrap = [{bootstrap:?}]");
        }
        if let Some(backend) = backend {
            let _ = writeln!(text, "backend = {backend:?}");
        }
        text.push_str("\n[trust]\nallow_unknown = true\n");
        for (package, shards) in packages {
            let package = package.display().to_string();
            // Shards in one entry follow one another.
            for shard in shards {
                let _ = writeln!(text, "[[packages]]\npackage = {package:?}\nshards = [{shard:?}]");
            }
            if shards.is_empty() {
                let _ = writeln!(text, "[[packages]]\npackage = {package:?}");
            }
        }
        expect(fs::write(self.settings(), text));
    }

    /// Start its process and wait until it says that it is ready.
    ///
    /// # Panics
    /// When it does not.
    #[allow(clippy::panic)]
    pub fn start(&mut self, binary: &Path) {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(binary),
            None => Command::new(binary),
        };
        let log = expect(fs::OpenOptions::new().create(true).append(true).open(&self.log));
        command.args(["--json", "node", "--config"]).arg(self.settings()).env("OSTRAKON_HOME", self.home());
        if let Some(libraries) = &self.part.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let mut child = expect(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn());
        let Some(out) = child.stdout.take() else { panic!("no standard output") };
        let began = Instant::now();
        let mut line = String::new();
        let mut out = BufReader::new(out);
        while line.trim().is_empty() {
            line.clear();
            let read = expect(out.read_line(&mut line));
            if read == 0 || began.elapsed() > START {
                let _ = child.kill();
                panic!("a node does not start: {}", fs::read_to_string(&self.log).unwrap_or_default());
            }
        }
        let ready: serde_json::Value = expect(serde_json::from_str(&line));
        let text = |name: &str| ready.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        (self.key, self.http) = (text("node"), text("http"));
        // What else it says is not read: it must not wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        self.child = Some(child);
    }

    /// Whether its process lives.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process number.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// End it without a word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.signal_to(&child, "CONT");
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Send it a signal: `STOP`, `CONT`, `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            self.signal_to(child, name);
        }
    }

    #[allow(clippy::unused_self)]
    fn signal_to(&self, child: &Child, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    }

    /// Wait for its end.
    ///
    /// # Panics
    /// It does not end within this time.
    #[allow(clippy::panic)]
    pub fn wait(&mut self, within: Duration) -> Option<i32> {
        let mut child = self.child.take()?;
        let began = Instant::now();
        loop {
            if let Some(status) = expect(child.try_wait()) {
                return status.code();
            }
            if began.elapsed() > within {
                let _ = child.kill();
                panic!("the node does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cut it off from all others, or join it again. Nothing happens without namespaces.
    pub fn cut_off(&self, cut: bool) {
        if let Some(namespace) = &self.namespace {
            namespace.link(!cut);
        }
    }

    /// Bytes that its network device has sent and received, with everything around them; `None` without a namespace.
    pub fn wire_bytes(&self) -> Option<u64> {
        let device = Path::new("/sys/class/net").join(&self.namespace.as_ref()?.outside).join("statistics");
        let read = |name: &str| fs::read_to_string(device.join(name)).ok()?.trim().parse::<u64>().ok();
        Some(read("rx_bytes")? + read("tx_bytes")?)
    }

    /// The port it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A virtual switch that all namespaces hang on.
#[derive(Debug)]
struct Bridge {
    name: String,
    /// The second and third number of the addresses.
    net: u16,
    count: usize,
}

/// One node's network.
#[derive(Debug)]
struct Namespace {
    name: String,
    outside: String,
    ip: String,
}

impl Bridge {
    /// `None` where this process may not make namespaces.
    fn make(count: usize) -> Option<Self> {
        let net = u16::try_from(std::process::id() % 60_000).unwrap_or(1);
        let bridge = Self { name: format!("ostb{net}"), net, count };
        let [high, low] = net.to_be_bytes();
        let made = ip(&format!("link add {} type bridge", bridge.name))
            && ip(&format!("addr add 10.{high}.{low}.254/24 dev {}", bridge.name))
            && ip(&format!("link set {} up", bridge.name));
        for at in 0..count {
            if !made || !bridge.make_namespace(at) {
                return None;
            }
        }
        Some(bridge)
    }

    fn make_namespace(&self, at: usize) -> bool {
        let Namespace { name, outside, ip: address } = self.namespace(at);
        ip(&format!("netns add {name}"))
            && ip(&format!("link add {outside} type veth peer name eth0 netns {name}"))
            && ip(&format!("link set {outside} master {} up", self.name))
            && ip(&format!("-n {name} addr add {address}/24 dev eth0"))
            && ip(&format!("-n {name} link set eth0 up"))
            && ip(&format!("-n {name} link set lo up"))
    }

    fn namespace(&self, at: usize) -> Namespace {
        let [high, low] = self.net.to_be_bytes();
        let (net, last) = (self.net, at + 1);
        Namespace {
            name: format!("ost{net}n{at}"),
            outside: format!("ov{net}n{at}"),
            ip: format!("10.{high}.{low}.{last}"),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for at in 0..self.count {
            let _ = ip(&format!("netns del {}", self.namespace(at).name));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

impl Namespace {
    fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new("ip");
        // `ip netns exec` becomes the program that it starts: signals reach it.
        command.args(["netns", "exec", &self.name]).arg(binary);
        command
    }

    fn link(&self, up: bool) {
        let _ = ip(&format!("link set {} {}", self.outside, if up { "up" } else { "down" }));
    }
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    expect(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())).port()
}

use crate::tiny::expect;

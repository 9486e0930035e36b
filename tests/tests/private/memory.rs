//! The memory of servers during and after a private run, searched for the text, its tokens, activations and codes.
//!
//! # How
//!
//! 1. Three nodes of different operators are real processes. `ostrakon run --private` asks them about a text with many words that are
//!    nowhere else.
//! 2. The same text is run here, without them, and all that ever goes in or out of an operation is kept: token ids, activations
//!    as f32, codes as u8, u16 and i32. Each row is searched for in pieces.
//! 3. While the private run goes on the servers are stopped again and again, and their whole memory is searched; and once more
//!    when it is over. Nothing may be found.
//! 4. To see that the search finds what is there: a plain run of the same text by the same nodes, which are searched likewise;
//!    and a client that has codes multiplied without a mask, in a layer of each field.
#![cfg(target_os = "linux")]

use ostrakon_exact::field::Field;
use ostrakon_net::{Client, NetConfig};
use ostrakon_nn::{Masked, Observer, OperationKind, Servers, SharedError, SharedLayer, Tensor, TensorType, Wrong};
use ostrakon_node::tokens::Tokens;
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_tests::memory::{Memory, Needles};
use ostrakon_tests::native::NativeBert;
use ostrakon_tests::packed::{binary, minilm};
use ostrakon_tests::private::{Bench, Component, elements, fresh_seed, opened, packed, place};
use ostrakon_tests::swarm::{Part, Swarm};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TEXT: &str = "Quixotic zeppelins smuggled forty-seven vermilion accordions past Ludmila's marzipan lighthouse, while an \
    arthritic ocelot named Bartholomew whispered the combination of the embassy safe to a sleepwalking trombonist.";

/// Multiplies here: only what is split is of interest, and for which layer.
struct Here {
    bench: Arc<Bench>,
    component: Arc<Component>,
    called: Mutex<Vec<Arc<SharedLayer>>>,
}

impl Servers for Here {
    type Who = &'static str;

    fn register(&self, _: &Arc<SharedLayer>) {}

    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError> {
        let mask = self.component.mask(&[fresh_seed()], place(layer, layer.stream(), rows));
        let products = vec![self.bench.multiply(layer.name(), &mask)];
        Ok(Masked { mask, products })
    }

    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, Self::Who), SharedError> {
        self.called.lock().unwrap().push(layer.clone());
        Ok((self.bench.multiply(layer.name(), share), "here"))
    }

    fn wrong(&self, who: &Self::Who, wrong: &Wrong) {
        panic!("{who}: {wrong:?}");
    }
}

/// Keeps the outputs of all operations.
#[derive(Default)]
struct Kept(Mutex<Vec<(String, Tensor)>>);

impl Observer for Kept {
    fn operation(&self, kind: &OperationKind, _: &[(&str, &Tensor)], output: &Tensor) {
        self.0.lock().unwrap().push((kind.to_string(), output.clone()));
    }
}

/// What must not be in a server's memory, and the layers with their codes.
fn secrets() -> (Needles, Vec<(Arc<SharedLayer>, Tensor)>) {
    let package = opened(&minilm(1));
    let tokens = Tokens::load(package.tokenizer().unwrap(), 512).unwrap();
    let ids = tokens.encode(&[TEXT.to_owned()]).unwrap().remove(0).ids;
    let bench = Arc::new(Bench::new(package.clone()));
    let component = Component::start(&bench.executor, true);
    let kept = Arc::new(Kept::default());
    let here = Here { bench: bench.clone(), component: component.clone(), called: Mutex::default() };
    let here = Arc::new(here);
    let host = Arc::new(bench.shared(component.clone(), here.clone()).observed_by(kept.clone()));
    let model = NativeBert::open(host, package.manifest()).unwrap();
    let column = |ids: Vec<i32>| Tensor::from_i32(vec![ids.len() as u32], ids).unwrap();
    let lengths = column(vec![ids.len() as i32]);
    model.forward(column(ids.clone()), &lengths).unwrap();
    let mut needles = Needles::default();
    needles.add_pieces("text", TEXT.as_bytes(), 16, 1);
    needles.add_pieces("text", TEXT.to_lowercase().as_bytes(), 16, 1);
    for first in 0..ids.len() - 6 {
        let six = &ids[first..first + 6];
        needles.add("token ids", &six.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
        needles.add("token ids", &six.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect::<Vec<_>>());
    }
    for (kind, output) in kept.0.lock().unwrap().iter() {
        assert_eq!(output.ty(), TensorType::Fp32);
        let kind = if kind.starts_with("layer embeddings.") { "activations of embeddings" } else { "activations" };
        // Pieces of every row.
        needles.add_pieces(kind, &output.bytes(), 32, 4);
    }
    let all_codes = component.take_codes();
    for codes in &all_codes {
        let codes = elements(codes);
        let wide = codes.iter().any(|&code| code > 255);
        let bytes: Vec<u8> = codes.iter().flat_map(|&code| (code as u16).to_le_bytes()).collect();
        if wide {
            needles.add_pieces("codes of 16 bits", &bytes, 32, 4);
            // As they are sent.
            let low: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
            needles.add_pieces("codes of 16 bits, their low bytes", &low, 32, 4);
        } else {
            let bytes: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
            needles.add_pieces("codes of 8 bits", &bytes, 32, 4);
        }
        needles.add_pieces(
            "codes as elements",
            &codes.iter().flat_map(|code| code.to_le_bytes()).collect::<Vec<_>>(),
            96,
            2,
        );
    }
    let called = std::mem::take(&mut *here.called.lock().unwrap());
    assert_eq!(called.len(), all_codes.len());
    (needles, called.into_iter().zip(all_codes).collect())
}

/// Have a server multiply codes as they are.
fn multiply_without_mask(server: &str, layer: &SharedLayer, codes: &Tensor) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let seconds = Duration::from_secs(20);
    runtime.block_on(async {
        let (client, mut events) = Client::start(NetConfig::new([77; 32])).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let node = client.dial(server).await.unwrap();
        let mut stream = client.share(node).await.unwrap();
        let (package, rows) = (opened(&minilm(1)).digest(), codes.dims()[0]);
        // Before the encoders there are the embeddings.
        let block = layer.name().split('.').nth(1).unwrap().parse::<u32>().unwrap() + 1;
        stream.send(&ToServer::Open { package, from: block, to: block + 1, rows }, &[]).await.unwrap();
        assert_eq!(stream.receive(seconds).await.unwrap(), Some(FromServer::Opened));
        let codes = packed(layer.field(), layer.inputs(), elements(codes));
        let (layer, bytes) = (layer.name().to_owned(), codes.len() as u64);
        stream.send(&ToServer::Multiply { call: 0, layer, rows, bytes }, &codes).await.unwrap();
        let said = stream.receive(seconds).await.unwrap();
        assert!(matches!(said, Some(FromServer::Product { .. })), "{said:?}");
        client.stop().await;
    });
}

fn client(swarm: &Swarm, home: &std::path::Path, options: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(["--json", "run"]).arg(minilm(1)).args(["--allow-unknown-signer", "--threads", "1", "--text", TEXT]);
    command.args(["--swarm", &swarm.schedulers().join(",")]).args(options).env("OSTRAKON_HOME", home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Searches of the servers.
#[derive(Debug, Default)]
struct Searches {
    count: usize,
    searched: u64,
    /// Places by kind.
    found: BTreeMap<String, usize>,
}

impl Searches {
    /// Stop each server for as long as it takes to copy its memory, and search that.
    fn search(&mut self, swarm: &Swarm, needles: &Needles) {
        for node in &swarm.nodes {
            node.signal("STOP");
            let memory = Memory::of(node.process().unwrap());
            node.signal("CONT");
            let found = needles.search_memory(&memory.unwrap());
            assert!(found.searched > 1 << 20, "{found:?}");
            self.searched += found.searched;
            self.count += 1;
            found.places.into_iter().for_each(|(kind, places)| *self.found.entry(kind).or_default() += places);
        }
    }

    /// Search while this runs, and when it is over. What it gives.
    fn during(swarm: &Swarm, needles: &Needles, mut client: Child) -> (Self, Value) {
        let mut searches = Self::default();
        let start = Instant::now();
        while client.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "it does not end");
            std::thread::sleep(Duration::from_millis(200));
            searches.search(swarm, needles);
        }
        let output = client.wait_with_output().unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        searches.search(swarm, needles);
        (searches, said)
    }
}

#[test]
fn servers_of_a_private_run_know_nothing_of_it() {
    let (needles, codes) = secrets();
    println!("searched for: {:?}", needles.counts());
    let part = |at: usize| Part {
        operator: format!("operator-{at}"),
        roles: vec!["execution", "scheduling"],
        packages: vec![(minilm(1), vec![])],
        ..Part::default()
    };
    let swarm = Swarm::start(&binary(), &[part(0), part(1), part(2)], false);
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let child = client(&swarm, home.path(), &["--private", "--servers", "2"]);
    let (private, said) = Searches::during(&swarm, &needles, child);
    println!("private: {private:?}, {:.1} s", start.elapsed().as_secs_f64());
    let digest = said["digest"].as_str().unwrap_or_else(|| panic!("{said}\n{}", swarm.logs(20))).to_owned();
    assert_eq!(said["servers"][0]["servers"].as_array().unwrap().len(), 2);
    assert!(said["traffic"]["sent"].as_u64().unwrap() > 1 << 20, "{said}");
    assert!(private.found.is_empty(), "{private:?}");

    let start = Instant::now();
    let (plain, said) = Searches::during(&swarm, &needles, client(&swarm, home.path(), &["--verify", "none"]));
    println!("plain: {plain:?}, {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(said["digest"], digest);
    for kind in ["text", "token ids", "activations"] {
        assert!(plain.found.contains_key(kind), "the search does not find {kind} where it is: {plain:?}");
    }

    for (field, kind) in [(Field::P24, "codes of 8 bits"), (Field::P31, "codes of 16 bits")] {
        let (layer, codes) = codes.iter().find(|(layer, _)| layer.field() == field).unwrap();
        multiply_without_mask(&swarm.nodes[0].address, layer, codes);
        let mut open = Searches::default();
        open.search(&swarm, &needles);
        println!("codes without a mask, {layer:?}, {field:?}: {open:?}");
        assert!(open.found.keys().any(|found| found.starts_with(kind)), "{field:?}: {open:?}");
    }
}

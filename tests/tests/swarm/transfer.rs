//! Files and packages between nodes over real sockets: from several nodes, on from where it was left, past nodes that
//! lie, and not before the signature is trusted.

use ostrakon_net::{Client, Event, Events, NetConfig};
use ostrakon_node::swarm::transfer::give::{GivingStream, give, refuse};
use ostrakon_node::swarm::transfer::take::take;
use ostrakon_node::swarm::transfer::{Fetcher, GROUP_BYTES, Shelf, TransferError};
use ostrakon_node::{Home, NodeError, TrustPolicy};
use ostrakon_protocol::wire::{Ask, FileAsk, FileReply, Refusal, Reply};
use ostrakon_protocol::{Digest, PublicKey};
use ostrakon_tests::tiny::{Tiny, policy};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PIECE: u64 = 4 << 20;
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// How a node that gives files behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Gives this many ranges, and after that has nothing.
    Leaves(u64),
    /// Says that it has everything and sends something else.
    Lies,
    /// Gives the manifest of something else.
    Forges,
}

struct Giver {
    node: PublicKey,
    address: String,
    ranges: Arc<AtomicU64>,
}

async fn join(seed: u8) -> (Client, Events) {
    let config = NetConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".into()], ..NetConfig::new([seed; 32]) };
    Client::start(config).await.unwrap()
}

/// A node with a shelf.
async fn giver(seed: u8, shelf: Arc<Shelf>, manner: Manner) -> Giver {
    let (client, mut events) = join(seed).await;
    let ranges = Arc::new(AtomicU64::new(0));
    let giver = Giver { node: client.node(), address: client.addresses().remove(0), ranges: Arc::clone(&ranges) };
    tokio::spawn(async move {
        // Held for as long as it gives.
        let _client = client;
        while let Some(event) = events.recv().await {
            match event {
                Event::Question(question) => {
                    let reply = match question.ask {
                        Ask::Named { name } => {
                            let all = shelf.packages().into_iter().filter(|(_, package)| package.name == name);
                            Reply::Named { packages: all.map(|(digest, _)| digest).collect() }
                        }
                        Ask::Manifest { package } => match shelf.manifest(&package) {
                            Ok((mut manifest, signature)) => {
                                if manner == Manner::Forges {
                                    manifest.push(b'\n');
                                }
                                Reply::Manifest { manifest: manifest.into(), signature: signature.map(Into::into) }
                            }
                            Err(_) => Reply::Refused { why: Refusal::NotHere, reason: "not here".into() },
                        },
                        _ => Reply::Ok,
                    };
                    let _ = question.answer.send(reply);
                }
                Event::Files { stream, .. } => {
                    tokio::spawn(answer(Arc::clone(&shelf), stream, manner, Arc::clone(&ranges)));
                }
                _ => {}
            }
        }
    });
    giver
}

async fn answer(shelf: Arc<Shelf>, mut stream: GivingStream, manner: Manner, ranges: Arc<AtomicU64>) {
    let Ok(Some(FileAsk::File { digest, from, to })) = stream.receive(FIRST_FRAME).await else { return };
    let before = ranges.fetch_add(1, Ordering::SeqCst);
    match manner {
        Manner::Leaves(given) if before >= given => {
            let _ = refuse(stream, Refusal::NotHere, "it is gone").await;
        }
        Manner::Lies => {
            let bytes = shelf.file(&digest).unwrap().bytes;
            stream.send(&FileReply::Found { bytes, more: 0 }, &[]).await.unwrap();
            // Whoever listens stops before the end.
            let _ = stream.write(&vec![7; 1 << 20]).await;
            let _ = stream.finish().await;
        }
        _ => {
            let _ = give(shelf, stream, digest, from, to).await;
        }
    }
}

/// A file that is given, in a directory.
fn lying(directory: &Path, bytes: usize) -> (Arc<Shelf>, Digest, Vec<u8>) {
    let content: Vec<u8> = (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let path = directory.join("file.wasm");
    fs::write(&path, &content).unwrap();
    let shelf = Arc::new(Shelf::new(directory.join("trees")));
    shelf.fill(&[], &[path]);
    (shelf, Digest::of_content(&content), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_from_two_nodes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (shelf, digest, content) = lying(directory.path(), 30 << 20);
    let (one, two) = (giver(1, Arc::clone(&shelf), Manner::Honest).await, giver(2, shelf, Manner::Honest).await);
    let (client, _events) = join(9).await;
    for giver in [&one, &two] {
        assert_eq!(client.dial(&giver.address).await.unwrap(), giver.node);
    }
    let incoming = directory.path().join("incoming");
    let bytes = content.len() as u64;
    let taken = take(&client, &incoming, digest, bytes, &[one.node, two.node]).await.unwrap();
    assert_eq!(taken.fetched, bytes);
    assert!(fs::read(&taken.path).unwrap() == content);
    let ranges = [&one, &two].map(|giver| giver.ranges.load(Ordering::SeqCst));
    assert!(ranges[0] > 0 && ranges[1] > 0 && ranges[0] + ranges[1] == bytes.div_ceil(PIECE), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_goes_on_and_what_was_damaged_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let (shelf, digest, content) = lying(directory.path(), (10 << 20) + 12_345);
    let bytes = content.len() as u64;
    let leaves = giver(1, Arc::clone(&shelf), Manner::Leaves(1)).await;
    let stays = giver(2, shelf, Manner::Honest).await;
    let (client, _events) = join(9).await;
    client.dial(&leaves.address).await.unwrap();
    client.dial(&stays.address).await.unwrap();
    let incoming = directory.path().join("incoming");
    let error = take(&client, &incoming, digest, bytes, &[leaves.node]).await.unwrap_err();
    assert!(matches!(&error, TransferError::Exhausted { asked: 1, last, .. } if last.contains("gone")), "{error}");

    // One byte of what has come changes on the disk.
    let part = incoming.join(format!("{digest}.part"));
    let mut kept = fs::read(&part).unwrap();
    kept[100_000] ^= 1;
    fs::write(&part, kept).unwrap();
    let taken = take(&client, &incoming, digest, bytes, &[stays.node]).await.unwrap();
    assert_eq!(taken.fetched, bytes - PIECE + GROUP_BYTES, "the rest, and the group that was damaged");
    assert!(fs::read(&taken.path).unwrap() == content);

    // All of it is there: nobody is asked.
    assert_eq!(take(&client, &incoming, digest, bytes, &[]).await.unwrap().fetched, 0);
    let place = directory.path().join("a/file");
    taken.place(&place).unwrap();
    assert!(fs::read(place).unwrap() == content && fs::read_dir(&incoming).unwrap().count() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_is_reported_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (shelf, digest, content) = lying(directory.path(), 9 << 20);
    let bytes = content.len() as u64;
    let (liar, honest) = (giver(1, Arc::clone(&shelf), Manner::Lies).await, giver(2, shelf, Manner::Honest).await);
    let (client, _events) = join(9).await;
    client.dial(&liar.address).await.unwrap();
    client.dial(&honest.address).await.unwrap();
    let incoming = directory.path().join("incoming");
    let taken = take(&client, &incoming, digest, bytes, &[liar.node, honest.node]).await.unwrap();
    assert!(fs::read(&taken.path).unwrap() == content);
    assert_eq!(liar.ranges.load(Ordering::SeqCst), 1, "it is not asked again");
    let fleet = client.fleet();
    assert!(fleet.reputation(&liar.node) < 1000, "{}", fleet.reputation(&liar.node));
    assert_eq!(fleet.reputation(&honest.node), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_comes_by_name_and_not_before_its_signature_is_trusted() {
    let tiny = Tiny::new();
    let package = tiny.honest(2);
    let shelf = Arc::new(Shelf::new(tiny.path().join("trees")));
    shelf.fill(&[package], &[]);
    let (digest, on_shelf) = shelf.packages().remove(0);
    let (forger, honest) = (giver(1, Arc::clone(&shelf), Manner::Forges).await, giver(2, shelf, Manner::Honest).await);
    let (client, _events) = join(9).await;
    client.dial(&forger.address).await.unwrap();
    client.dial(&honest.address).await.unwrap();
    let home = Home::under(&tiny.path().join("other"));
    let known = [forger.node, honest.node];
    let fetcher = |limit| {
        let empty = Arc::new(Shelf::new(tiny.path().join("none")));
        Fetcher::new(client.clone(), home.clone(), empty, limit)
    };

    let error = fetcher(1 << 30).package(&on_shelf.name, &TrustPolicy::default(), &known).await.unwrap_err();
    assert!(matches!(&error, NodeError::Package(_)), "{error}");
    let error = fetcher(1000).package(&on_shelf.name, &policy(), &known).await.unwrap_err();
    assert!(error.to_string().contains("lets in 1000"), "{error}");
    let error = fetcher(1 << 30).package("nothing-like-it", &policy(), &known).await.unwrap_err();
    assert!(error.to_string().contains("no node that can be reached has the package"), "{error}");
    assert_eq!(honest.ranges.load(Ordering::SeqCst), 0, "no file was asked for");

    let fetched = fetcher(1 << 30).package(&on_shelf.name, &policy(), &known).await.unwrap();
    assert_eq!((fetched.stored.digest, fetched.stored.name), (digest, on_shelf.name));
    assert_eq!(fetched.fetched, fetched.bytes);
    assert_eq!(forger.ranges.load(Ordering::SeqCst), 0, "whoever forges a manifest is not asked for files");
    assert!(client.fleet().reputation(&forger.node) < 1000);
}

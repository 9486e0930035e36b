//! Nodes for tests.

use ostrakon_net::{Client, Event, Events, NetConfig};
use ostrakon_protocol::{
    Hardware, Load, PublicKey, Roles, SignedStatus, SigningKey, Status,
    wire::{Refusal, Reply},
};
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep, timeout};

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn seed(n: u32) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    seed
}

pub(crate) fn key(n: u32) -> SigningKey {
    SigningKey::from_seed(&seed(n))
}

pub(crate) fn config(n: u32) -> NetConfig {
    NetConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".into()], ..NetConfig::new(seed(n)) }
}

pub(crate) async fn node(n: u32) -> (Client, Events) {
    Client::start(config(n)).await.unwrap()
}

pub(crate) async fn node_knowing(n: u32, other: &Client) -> (Client, Events) {
    let config = NetConfig { bootstrap: other.addresses(), ..config(n) };
    Client::start(config).await.unwrap()
}

pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub(crate) fn unsigned(node: PublicKey, addresses: Vec<String>, sequence: u64) -> Status {
    Status {
        node,
        sequence,
        issued: now(),
        operator: "alice".into(),
        roles: Roles { execution: true, ..Roles::default() },
        addresses,
        hardware: Hardware { threads: 2, memory: 1 << 30, simd: "avx2".into(), backend: "cpu".into() },
        load: Load { slots: 4, used: 0, free_memory: 1 << 29 },
        served: vec![],
        plugins: vec![],
        draining: false,
    }
}

pub(crate) fn status(n: u32, addresses: Vec<String>, sequence: u64) -> SignedStatus {
    let key = key(n);
    SignedStatus::sign(&key, unsigned(key.public(), addresses, sequence))
}

/// Answers every question with `Ok` and drops everything else.
pub(crate) fn answering(mut events: Events) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Question(question) = event {
                let _ = question.answer.send(Reply::Ok);
            }
        }
    });
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(SOON, what).await.expect("within time")
}

/// The next event of a kind; others are dropped.
pub(crate) async fn event<T>(events: &mut Events, mut of: impl FnMut(Event) -> Option<T>) -> T {
    soon(async {
        loop {
            if let Some(found) = of(events.recv().await.expect("events go on")) {
                return found;
            }
        }
    })
    .await
}

pub(crate) fn refusal(reply: &Reply) -> Option<Refusal> {
    match reply {
        Reply::Refused { why, .. } => Some(*why),
        _ => None,
    }
}

//! Peers that want more than their share: questions, streams, connections, identities.

use crate::nodes::{SOON, answering, config, event, key, node, now, refusal, soon, unsigned, until};
use crate::raw::Raw;
use futures::future::join_all;
use ostrakon_net::{Client, Event, NetConfig, NetLimits, Offence};
use ostrakon_protocol::wire::{Ask, Refusal, Reply};
use ostrakon_protocol::{SignedStatus, SigningKey, encode};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_is_answered_with_busy_and_others_are_still_served() {
    let limits = NetLimits { questions_per_second: 20, ..NetLimits::default() };
    let (a, events) = Client::start(NetConfig { limits, ..config(1) }).await.unwrap();
    answering(events);
    let ((flooder, _f), (honest, _h)) = (node(2).await, node(3).await);
    flooder.dial(&a.addresses()[0]).await.unwrap();
    honest.dial(&a.addresses()[0]).await.unwrap();
    let flood = join_all((0..200).map(|_| flooder.ask(a.node(), Ask::Receipts, SOON)));
    let (replies, honest_reply) = tokio::join!(flood, honest.ask(a.node(), Ask::Receipts, SOON));
    let replies: Vec<Reply> = replies.into_iter().filter_map(Result::ok).collect();
    let served = replies.iter().filter(|r| **r == Reply::Ok).count();
    let busy = replies.iter().filter(|r| refusal(r) == Some(Refusal::Busy)).count();
    assert!((20..100).contains(&served) && busy >= 100, "{served} served, {busy} busy");
    assert_eq!(honest_reply.unwrap(), Reply::Ok);
    assert!(a.fleet().reputation(&flooder.node()) < 960);
    assert_eq!(a.fleet().reputation(&honest.node()), 1000);
    // Who goes on is dropped.
    until("the flooder is dropped", async || {
        join_all((0..200).map(|_| flooder.ask(a.node(), Ask::Receipts, SOON))).await;
        a.fleet().reputation(&flooder.node()) < 100
    })
    .await;
    assert_eq!(honest.ask(a.node(), Ask::Receipts, SOON).await.unwrap(), Reply::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_no_events_says_that_it_is_busy() {
    let limits = NetLimits { questions_per_second: 10_000, ..NetLimits::default() };
    let (a, events) = Client::start(NetConfig { limits, ..config(1) }).await.unwrap();
    let mut askers = Vec::new();
    for n in 2..5 {
        let (asker, events) = node(n).await;
        answering(events);
        asker.dial(&a.addresses()[0]).await.unwrap();
        askers.push(asker);
    }
    let within = Duration::from_secs(3);
    let node = a.node();
    let questions = askers.iter().flat_map(|c| (0..150).map(move |_| c.ask(node, Ask::Receipts, within)));
    let replies = join_all(questions).await;
    let busy = replies.iter().filter(|r| r.as_ref().is_ok_and(|r| refusal(r) == Some(Refusal::Busy))).count();
    assert!(busy >= 150, "{busy}");
    // The fleet is told all the same, and when events are taken again all is well.
    let fleet = askers[0].ask(a.node(), Ask::Fleet { after: None }, SOON).await.unwrap();
    assert!(matches!(fleet, Reply::Fleet { .. }));
    answering(events);
    until("it answers again", async || {
        askers[0].ask(a.node(), Ask::Receipts, SOON).await.is_ok_and(|reply| reply == Reply::Ok)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_peer_are_counted_until_they_are_dropped() {
    let limits = NetLimits { streams_per_peer: 3, ..NetLimits::default() };
    let (a, mut events) = Client::start(NetConfig { limits, ..config(1) }).await.unwrap();
    let (b, _b) = node(2).await;
    b.dial(&a.addresses()[0]).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let opened = b.session(a.node()).await.unwrap();
        let taken =
            event(&mut events, |e| if let Event::Session { stream, .. } = e { Some(stream) } else { None }).await;
        open.push((opened, taken));
    }
    let error = b.session(a.node()).await.unwrap_err().to_string();
    assert!(error.contains("no more streams"), "{error}");
    open.pop();
    assert!(b.files(a.node()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_one_address_are_counted() {
    let limits = NetLimits { connections_per_address: 5, ..NetLimits::default() };
    let (a, events) = Client::start(NetConfig { limits, ..config(1) }).await.unwrap();
    answering(events);
    let address = a.addresses()[0].clone();
    let peers: Vec<Raw> = (100..120).map(|n| Raw::start(n, &address)).collect();
    sleep(Duration::from_secs(2)).await;
    let connected = peers.iter().filter(|p| p.is_connected()).count();
    assert_eq!(connected, 5);
    // This node can still choose for itself, and who leaves makes room.
    let (b, _b) = node(2).await;
    soon(a.dial(&b.addresses()[0])).await.unwrap();
    drop(peers);
    let (c, _c) = node(3).await;
    until("there is room again", async || c.dial(&address).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_identities_at_one_address_get_one_share() {
    let limits = NetLimits { fleet: 1000, fleet_per_address: 10, ..NetLimits::default() };
    let (a, events) = Client::start(NetConfig { limits, ..config(1) }).await.unwrap();
    answering(events);
    let raw = Raw::connected(66, &a.addresses()[0]).await;
    let began = Instant::now();
    for n in 0..2000 {
        let identity = key(10_000 + n);
        let claim = unsigned(identity.public(), vec!["/ip4/10.9.8.7/tcp/1".into()], now());
        raw.tell(encode(&SignedStatus::sign(&identity, claim)));
        if n % 50 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    until("their share is full", async || a.fleet().statuses().len() == 10).await;
    sleep(Duration::from_secs(1)).await;
    println!("2000 identities told in {:?}", began.elapsed());
    assert_eq!(a.fleet().statuses().len(), 10);
    // An honest node is still let into the fleet.
    let (b, _b) = crate::nodes::node_knowing(2, &a).await;
    until("an honest node is known", async || {
        b.publish(crate::nodes::status(2, b.addresses(), now())).await;
        a.fleet().status(&b.node()).is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_say_who_may_be_here() {
    let stranger = key(3).public();
    let (a, mut events) = Client::start(NetConfig { deny: vec![stranger], ..config(1) }).await.unwrap();
    let ((b, _b), (c, _c)) = (node(2).await, node(3).await);
    b.dial(&a.addresses()[0]).await.unwrap();
    // Whoever is denied may believe for a moment that it is connected.
    let _ = c.dial(&a.addresses()[0]).await;
    assert!(c.ask(a.node(), Ask::Receipts, Duration::from_secs(2)).await.is_err());
    let error = a.ask(stranger, Ask::Receipts, SOON).await.unwrap_err().to_string();
    assert!(error.contains("deny list"), "{error}");
    // Other lists, at once.
    a.admit(vec![stranger], vec![]).await;
    let gone = event(&mut events, |e| if let Event::Disconnected(n) = e { Some(n) } else { None }).await;
    assert_eq!(gone, b.node());
    answering(events);
    until("who is allowed now is served", async || {
        c.dial(&a.addresses()[0]).await.is_ok()
            && c.ask(a.node(), Ask::Receipts, SOON).await.is_ok_and(|reply| reply == Reply::Ok)
    })
    .await;
    assert!(b.dial(&a.addresses()[0]).await.is_err() || b.ask(a.node(), Ask::Receipts, SOON).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_reported_often_enough_is_dropped() {
    let (a, mut events) = node(1).await;
    let (b, _b) = node(2).await;
    b.dial(&a.addresses()[0]).await.unwrap();
    event(&mut events, |e| if let Event::Connected(n) = e { Some(n) } else { None }).await;
    for _ in 0..3 {
        a.report(b.node(), Offence::Wrong);
    }
    let gone = event(&mut events, |e| if let Event::Disconnected(n) = e { Some(n) } else { None }).await;
    assert_eq!(gone, b.node());
    assert!(a.fleet().reputation(&b.node()) < 100);
    let error = a.ask(b.node(), Ask::Receipts, SOON).await.unwrap_err().to_string();
    assert!(error.contains("banned"), "{error}");
    // Nobody is banned from talking to itself.
    for _ in 0..5 {
        a.report(a.node(), Offence::Wrong);
    }
    assert_eq!(a.fleet().reputation(&SigningKey::from_seed(&crate::nodes::seed(1)).public()), 1000);
}

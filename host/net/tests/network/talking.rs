//! Questions, sessions and files between two nodes, and with oneself.

use crate::nodes::{SOON, answering, config, event, node, node_knowing, refusal, soon, status, until};
use ostrakon_net::{Client, Event, NetConfig, NetError};
use ostrakon_protocol::wire::{Ask, FileAsk, FileReply, FromNode, JobState, Refusal, Reply, TensorHeader, ToNode};
use ostrakon_protocol::{Digest, PublicKey};
use std::time::Duration;

fn digest() -> Digest {
    Digest::of_content(b"something")
}

async fn ask_and_answer(a: &Client, b: PublicKey, events: &mut ostrakon_net::Events) {
    let ask = Ask::Job { job: digest() };
    let (reply, ()) = tokio::join!(a.ask(b, ask.clone(), SOON), async {
        let question = event(events, |e| if let Event::Question(q) = e { Some(q) } else { None }).await;
        assert_eq!((question.from, question.ask), (a.node(), ask.clone()));
        question.answer.send(Reply::Job(JobState::Unknown)).unwrap();
    });
    assert_eq!(reply.unwrap(), Reply::Job(JobState::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_over_tcp_and_quic() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (a, _events) = Client::start(NetConfig { listen: vec![], ..config(1) }).await.unwrap();
        let (b, mut events) = Client::start(NetConfig { listen: vec![listen.into()], ..config(2) }).await.unwrap();
        assert_eq!(b.addresses().len(), 1);
        assert_eq!(soon(a.dial(&b.addresses()[0])).await.unwrap(), b.node());
        ask_and_answer(&a, b.node(), &mut events).await;
        until("a round trip is known", async || a.fleet().round_trip(&b.node()).is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_need_not_say_who_is_there() {
    let ((a, _a), (b, _b)) = (node(1).await, node(2).await);
    let address = b.addresses()[0].split("/p2p/").next().unwrap().to_owned();
    assert_eq!(soon(a.dial(&address)).await.unwrap(), b.node());
    // Somebody else is expected there.
    let (c, _c) = node(3).await;
    let wrong = format!("{address}/p2p/{}", c.addresses()[0].split("/p2p/").nth(1).unwrap());
    let error = soon(a.dial(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains(&b.node().to_string()), "{error}");
    // Oneself.
    assert_eq!(soon(a.dial(&a.addresses()[0])).await.unwrap(), a.node());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_question_is_a_fault_and_silence_ends() {
    let ((a, _a), (b, mut events)) = (node(1).await, node(2).await);
    a.dial(&b.addresses()[0]).await.unwrap();
    let (reply, ()) = tokio::join!(a.ask(b.node(), Ask::Receipts, SOON), async {
        drop(event(&mut events, |e| if let Event::Question(q) = e { Some(q) } else { None }).await);
    });
    assert_eq!(refusal(&reply.unwrap()), Some(Refusal::Fault));
    let silent = a.ask(b.node(), Ask::Receipts, Duration::from_millis(300)).await;
    assert!(matches!(silent, Err(NetError::Timeout { .. })), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_travel_both_ways() {
    let ((a, _a), (b, mut events)) = (node(1).await, node(2).await);
    a.dial(&b.addresses()[0]).await.unwrap();
    let mut opened = soon(a.session(b.node())).await.unwrap();
    let (from, mut taken) =
        event(&mut events, |e| if let Event::Session { from, stream } = e { Some((from, stream)) } else { None }).await;
    assert_eq!(from, a.node());
    sends_tensors(&mut opened, &mut taken).await;
    drop(taken);
    assert!(opened.receive(SOON).await.is_ok_and(|frame| frame.is_none()) || opened.receive(SOON).await.is_err());
}

async fn sends_tensors(
    opened: &mut ostrakon_net::FrameStream<FromNode, ToNode>,
    taken: &mut ostrakon_net::FrameStream<ToNode, FromNode>,
) {
    for bytes in [0_usize, 3, 70_000, 5_000_000] {
        let payload: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let tensor = TensorHeader { element: 1, dimensions: vec![1], bytes: bytes as u64 };
        let forward = ToNode::Forward { call: 0, batch: 0, lengths: vec![1], input: digest(), tensor, sealed: false };
        let (sent, received) = tokio::join!(opened.send(&forward, &payload), async {
            let header = taken.receive(SOON).await.unwrap().unwrap();
            let follows = header.follows();
            (header, taken.payload(follows, 5_000_000).await.unwrap())
        });
        sent.unwrap();
        assert_eq!(received.0, forward);
        assert!(received.1 == payload);
        taken.send(&FromNode::Opened, &[]).await.unwrap();
        assert_eq!(opened.receive(SOON).await.unwrap(), Some(FromNode::Opened));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_raw_after_frames() {
    let ((a, _a), (b, mut events)) = (node(1).await, node(2).await);
    a.dial(&b.addresses()[0]).await.unwrap();
    let mut opened = soon(a.files(b.node())).await.unwrap();
    let ask = FileAsk::File { digest: digest(), from: 0, to: u64::MAX };
    opened.send(&ask, &[]).await.unwrap();
    let (from, mut taken) =
        event(&mut events, |e| if let Event::Files { from, stream } = e { Some((from, stream)) } else { None }).await;
    assert_eq!((from, taken.receive(SOON).await.unwrap()), (a.node(), Some(ask)));
    let content = vec![9; 300_000];
    taken.send(&FileReply::Found { bytes: 300_000, more: 0 }, &[]).await.unwrap();
    let (sent, got) = tokio::join!(
        async {
            taken.write(&content).await?;
            taken.finish().await
        },
        async {
            assert_eq!(opened.receive(SOON).await.unwrap(), Some(FileReply::Found { bytes: 300_000, more: 0 }));
            let (mut all, mut buffer) = (Vec::new(), vec![0; 10_000]);
            loop {
                match opened.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&buffer[..count]),
                }
            }
        }
    );
    sent.unwrap();
    assert!(got == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_all_arrive() {
    let ((a, _a), (b, mut events)) = (node(1).await, node(2).await);
    a.dial(&b.addresses()[0]).await.unwrap();
    let counted = tokio::spawn(async move {
        let mut streams = Vec::new();
        while streams.len() < 60 {
            streams.push(
                event(&mut events, |e| if let Event::Session { stream, .. } = e { Some(stream) } else { None }).await,
            );
        }
        streams.len()
    });
    let all = futures::future::join_all((0..60).map(|_| a.session(b.node())));
    let opened: Vec<_> = soon(all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((opened.len(), soon(counted).await.unwrap()), (60, 60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_ask_itself() {
    let (a, mut events) = node(1).await;
    ask_and_answer(&a, a.node(), &mut events).await;
    let mut opened = a.session(a.node()).await.unwrap();
    let mut taken =
        event(&mut events, |e| if let Event::Session { stream, .. } = e { Some(stream) } else { None }).await;
    sends_tensors(&mut opened, &mut taken).await;
    opened.finish().await.unwrap();
    assert!(taken.receive(SOON).await.unwrap().is_none());
    let mut opened = a.files(a.node()).await.unwrap();
    opened.send(&FileAsk::Snapshot { digest: digest() }, &[]).await.unwrap();
    let mut taken = event(&mut events, |e| if let Event::Files { stream, .. } = e { Some(stream) } else { None }).await;
    assert!(taken.receive(SOON).await.unwrap().is_some());
    a.publish(status(1, a.addresses(), 1)).await;
    until("its own status is in its fleet", async || a.fleet().status(&a.node()).is_some()).await;
    let Reply::Fleet { statuses, reputation, more } = a.ask(a.node(), Ask::Fleet { after: None }, SOON).await.unwrap()
    else {
        panic!("not a fleet")
    };
    assert_eq!((statuses.len(), reputation, more), (1, vec![1000], false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_seen_to_leave() {
    let ((a, mut events), (b, _b)) = (node(1).await, node(2).await);
    b.dial(&a.addresses()[0]).await.unwrap();
    let there = event(&mut events, |e| if let Event::Connected(n) = e { Some(n) } else { None }).await;
    assert_eq!(there, b.node());
    let node = b.node();
    b.stop().await;
    let gone = event(&mut events, |e| if let Event::Disconnected(n) = e { Some(n) } else { None }).await;
    assert_eq!(gone, node);
    assert!(matches!(b.ask(a.node(), Ask::Receipts, SOON).await, Err(NetError::Stopped)));
    let lost = a.ask(node, Ask::Receipts, SOON).await.unwrap_err();
    assert!(matches!(lost, NetError::Unreachable { .. }), "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_dialled_at_the_addresses_of_their_status() {
    let (hub, hub_events) = node(1).await;
    answering(hub_events);
    let ((a, _a), (b, b_events)) = (node_knowing(2, &hub).await, node_knowing(3, &hub).await);
    answering(b_events);
    until("b has its status told", async || {
        b.publish(status(3, b.addresses(), crate::nodes::now())).await;
        a.fleet().status(&b.node()).is_some()
    })
    .await;
    assert_eq!(a.ask(b.node(), Ask::Receipts, SOON).await.unwrap(), Reply::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_addresses_are_named() {
    for listen in ["127.0.0.1:4001", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/192.0.2.1/tcp/0", ""] {
        let started = Client::start(NetConfig { listen: vec![listen.into()], ..config(1) }).await;
        let said = started.map(drop).unwrap_err().to_string();
        assert!(said.contains("/ip4/127.0.0.1/tcp/4001") && said.contains(listen), "{said}");
    }
    let (a, _a) = node(1).await;
    let taken = a.addresses()[0].split("/p2p/").next().unwrap().to_owned();
    let started = Client::start(NetConfig { listen: vec![taken], ..config(2) }).await;
    let said = started.map(drop).unwrap_err().to_string();
    assert!(said.to_lowercase().contains("in use"), "{said}");
    let said = a.dial("/ip4/127.0.0.1/tcp/1").await.unwrap_err().to_string();
    assert!(said.contains("refused"), "{said}");
    assert!(matches!(a.dial("nonsense").await, Err(NetError::Address { .. })));
    let nobody = a.ask(PublicKey::from_bytes([2; 32]), Ask::Receipts, SOON).await;
    assert!(matches!(nobody, Err(NetError::Unreachable { .. })), "{nobody:?}");
}

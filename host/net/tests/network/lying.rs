//! Peers that send what they should not: forged statuses, two tongues, too long, too slow, nonsense.

use crate::nodes::{SOON, answering, event, key, node, node_knowing, now, soon, status, unsigned, until};
use crate::raw::{CONTROL, Raw, framed};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use ostrakon_net::{Client, Event, Events, FrameStream, NetError};
use ostrakon_protocol::wire::{Ask, FromNode, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, Reply, TensorHeader, ToNode};
use ostrakon_protocol::{Digest, SignedStatus, decode, encode};
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn taken(events: &mut Events) -> FrameStream<ToNode, FromNode> {
    event(events, |e| if let Event::Session { stream, .. } = e { Some(stream) } else { None }).await
}

/// Whatever was done, the node is there for others.
async fn is_well(node: &Client) {
    let (other, _events) = crate::nodes::node(99).await;
    soon(other.dial(&node.addresses()[0])).await.unwrap();
    let reply = other.ask(node.node(), Ask::Fleet { after: None }, SOON).await.unwrap();
    assert!(matches!(reply, Reply::Fleet { .. }));
}

async fn is_banned(node: &Client, raw: &Raw, n: u32) {
    until("it is dropped", async || !raw.is_connected()).await;
    assert!(node.fleet().reputation(&key(n).public()) < 100);
    raw.dial();
    sleep(Duration::from_millis(300)).await;
    until("it is not let in again", async || !raw.is_connected()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_statuses_are_dropped_and_so_is_who_sends_them() {
    let (a, events) = node(1).await;
    answering(events);
    let raw = Raw::connected(66, &a.addresses()[0]).await;
    // In the name of node 2, signed by 66.
    for sequence in 0..4 {
        let forged = unsigned(key(2).public(), vec![], now() + sequence);
        raw.tell(encode(&SignedStatus::sign(&key(66), forged)));
    }
    is_banned(&a, &raw, 66).await;
    assert!(a.fleet().statuses().is_empty());
    assert_eq!(a.fleet().reputation(&key(2).public()), 1000);
    is_well(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_statuses_and_noise_are_no_statuses() {
    let (a, events) = node(1).await;
    answering(events);
    let raw = Raw::connected(66, &a.addresses()[0]).await;
    let mut absurd = unsigned(key(66).public(), vec![], now());
    absurd.hardware.memory = u64::MAX;
    raw.tell(encode(&SignedStatus::sign(&key(66), absurd)));
    until("an absurd claim counts", async || a.fleet().reputation(&key(66).public()) <= 700).await;
    for n in 0..7 {
        raw.tell(vec![n; 100]);
    }
    is_banned(&a, &raw, 66).await;
    assert!(a.fleet().statuses().is_empty());
    is_well(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tongues_are_named_by_everybody() {
    let (a, mut a_events) = node(1).await;
    let (b, mut b_events) = node_knowing(2, &a).await;
    let raw = Raw::connected(66, &a.addresses()[0]).await;
    let (liar, sequence) = (key(66), now());
    for addresses in [vec![], vec!["/ip4/127.0.0.1/tcp/1".to_owned()]] {
        raw.tell(encode(&SignedStatus::sign(&liar, unsigned(liar.public(), addresses, sequence))));
        until("both know the liar", async || {
            a.fleet().status(&liar.public()).is_some() && b.fleet().status(&liar.public()).is_some()
        })
        .await;
    }
    for events in [&mut a_events, &mut b_events] {
        let named = event(events, |e| if let Event::TwoTongues(n) = e { Some(n) } else { None }).await;
        assert_eq!(named, liar.public());
    }
    assert!(a.fleet().reputation(&liar.public()) < 800 && b.fleet().reputation(&liar.public()) < 800);
    assert_eq!(b.fleet().reputation(&a.node()), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_and_wrong_questions_are_cut_before_they_are_read() {
    let (a, events) = node(1).await;
    answering(events);
    let mut raw = Raw::connected(66, &a.addresses()[0]).await;
    // A good one, to see that the stream is right.
    let answer = raw.say(&framed(&encode(&Ask::Receipts))).await;
    assert_eq!(decode::<Reply>(&answer[4..]).unwrap(), Reply::Ok);
    let too_long = u32::try_from(MAX_CONTROL_BYTES + 1).unwrap().to_le_bytes();
    let mut not_canonical = encode(&Ask::Receipts);
    not_canonical.push(0);
    let wrong = [too_long.to_vec(), u32::MAX.to_le_bytes().to_vec(), framed(b"noise"), framed(&not_canonical)];
    for (count, bytes) in wrong.iter().cycle().take(9).enumerate() {
        assert!(raw.say(bytes).await.is_empty());
        let points = 1000 - 100 * (u32::try_from(count).unwrap() + 1);
        until("it counts", async || a.fleet().reputation(&key(66).public()) <= points + 10).await;
    }
    raw.say(&framed(b"noise")).await;
    is_banned(&a, &raw, 66).await;
    is_well(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_replies_are_errors() {
    let (a, _events) = node(1).await;
    let mut raw = Raw::connected(66, &a.addresses()[0]).await;
    let mut incoming = raw.control.accept(CONTROL).unwrap();
    tokio::spawn(async move {
        let mut wrong = [u32::MAX.to_le_bytes().to_vec(), framed(b"noise"), vec![1]].into_iter().cycle();
        while let Some((_, mut stream)) = incoming.next().await {
            let _ = stream.write_all(&wrong.next().unwrap()).await;
            let _ = stream.close().await;
        }
    });
    for _ in 0..3 {
        let error = a.ask(key(66).public(), Ask::Receipts, SOON).await.unwrap_err();
        assert!(matches!(error, NetError::Unexpected(_) | NetError::Closed(_)), "{error}");
    }
    until("it counts", async || a.fleet().reputation(&key(66).public()) <= 810).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_frames_are_not_read() {
    let (a, mut events) = node(1).await;
    let mut raw = Raw::connected(66, &a.addresses()[0]).await;
    // A header.
    let mut stream = raw.session().await;
    stream.write_all(&u32::try_from(MAX_HEADER_BYTES + 1).unwrap().to_le_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let error = taken(&mut events).await.receive(SOON).await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { .. }), "{error}");
    // What follows one.
    let tensor = TensorHeader { element: 1, dimensions: vec![1], bytes: 1 << 60 };
    let input = Digest::of_content(b"");
    let forward = ToNode::Forward { call: 0, batch: 0, lengths: vec![], input, tensor, sealed: false };
    let mut stream = raw.session().await;
    stream.write_all(&framed(&encode(&forward))).await.unwrap();
    stream.flush().await.unwrap();
    let mut frames = taken(&mut events).await;
    let follows = frames.receive(SOON).await.unwrap().unwrap().follows();
    let error = frames.payload(follows, 1 << 20).await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { bytes: 0x1000_0000_0000_0000, limit: 0x10_0000, .. }), "{error}");
    // Another document than a frame.
    let mut stream = raw.session().await;
    stream.write_all(&framed(&encode(&Ask::Receipts))).await.unwrap();
    stream.flush().await.unwrap();
    let error = taken(&mut events).await.receive(SOON).await.unwrap_err();
    assert!(matches!(error, NetError::Decode(_)), "{error}");
    // Half a frame.
    let mut stream = raw.session().await;
    stream.write_all(&[9, 0]).await.unwrap();
    stream.close().await.unwrap();
    let error = taken(&mut events).await.receive(SOON).await.unwrap_err();
    assert!(matches!(error, NetError::Closed(_)), "{error}");
    assert!(a.fleet().reputation(&key(66).public()) <= 710);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_drips_is_cut_off() {
    let (a, mut events) = node(1).await;
    let mut raw = Raw::connected(66, &a.addresses()[0]).await;
    // Nothing for a while is only silence.
    let _silent = raw.session().await;
    let error = taken(&mut events).await.receive(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, NetError::Timeout { .. }), "{error}");
    assert_eq!(a.fleet().reputation(&key(66).public()), 1000);
    let mut drips = raw.session().await;
    let mut questions = raw.open(CONTROL).await.unwrap();
    questions.write_all(&[1, 0]).await.unwrap();
    let mut frames = taken(&mut events).await;
    tokio::spawn(async move {
        // A kilobyte a second.
        while drips.write_all(&[0; 100]).await.is_ok() && drips.flush().await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let began = Instant::now();
    let error = soon(frames.payload(1 << 20, 1 << 20)).await.unwrap_err();
    assert!(matches!(error, NetError::TooSlow), "{error}");
    assert!((9..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // The question that never ends is cut as well.
    assert!(soon(questions.read(&mut [0; 8])).await.map_or(true, |count| count == 0));
    assert!(a.fleet().reputation(&key(66).public()) <= 910);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_of_nobody_is_not_published() {
    let (a, _events) = node(1).await;
    a.publish(status(2, vec![], now())).await;
    a.publish(SignedStatus::sign(&key(3), unsigned(a.node(), vec![], now()))).await;
    sleep(Duration::from_millis(200)).await;
    assert!(a.fleet().statuses().is_empty());
}

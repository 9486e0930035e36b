//! Frames on a stream of shares that no honest client sends: sizes of the wrong field, numbers outside of the right one, names of no
//! layer, frames out of order, bytes that are no frames.

use crate::shares::{Local, Peer, ROWS, SOON, bytes, failed, masked, multiply, product};
use ostrakon_exact::Linear;
use ostrakon_exact::field::{Field, Parts, reference};
use ostrakon_net::{NetError, Offence};
use ostrakon_protocol::share::{MAX_LAYER_NAME, ToServer};
use ostrakon_protocol::wire::{MAX_TENSOR_BYTES, Refusal};
use ostrakon_tests::serving::digest;
use ostrakon_tests::tiny::BLOCKS;

/// A frame and what follows it.
type Sent = (ToServer, Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_their_stream_and_nothing_else() {
    let local = Local::new();
    let node = local.node(1).await;
    let (peer, other) = (Peer::new(20, &[&node]).await, Peer::new(21, &[&node]).await);
    // The first layer is of the larger field, the one after it of the smaller one.
    let (named, small) = (&local.layers[0], &local.layers[1]);
    let (name, layer) = named;
    let share: Vec<u32> = (0..2 * layer.inputs as u32).collect();
    let good = multiply(0, named, &share);
    let sized = |(name, _): &(String, Linear), rows: u32, bytes: u64| ToServer::Multiply {
        call: 0,
        layer: name.clone(),
        rows,
        bytes,
    };
    // An honest stream that is there all the time.
    let mut honest = other.open(&node, &local.all()).await;

    let long = "a".repeat(MAX_LAYER_NAME + 1);
    let twice =
        |call| vec![(good.clone(), bytes(layer, &share)), (multiply(call, named, &share), bytes(layer, &share))];
    let one = |frame: ToServer| vec![(frame, Vec::new())];
    let first = |rows: u32, first: u64| ToServer::Masked {
        call: 0,
        layer: name.clone(),
        stream: 0,
        seed: [1; 32],
        first,
        rows,
    };
    let of = |layer: &str| ToServer::Multiply { call: 0, layer: layer.to_owned(), rows: 2, bytes: 8 };
    let mut wrong: Vec<(Vec<Sent>, String)> = Vec::new();
    for (named, field) in [(named, Field::P31), (small, Field::P24)] {
        let (layer, p) = (&named.1, field.prime());
        // Not elements: all that fits the bytes and not the field, or some of it.
        let most = u32::MAX >> (32 - 8 * field.bytes());
        for (at, element) in [(0, p), (share.len() - 1, p), (3, p + 1), (5, most - 1), (6, most)] {
            let mut share = share.clone();
            share[at] = element;
            wrong.push((vec![(multiply(0, named, &share), bytes(layer, &share))], format!("below {p}")));
        }
        // The size of neither field, whichever it is.
        for bytes in [0, 1, 2, 5, 8].map(|each| 2 * each * layer.inputs as u64) {
            wrong.push((one(sized(named, 2, bytes)), "bytes follow".into()));
        }
        let (three, four) = (2 * 3 * layer.inputs as u64, 2 * 4 * layer.inputs as u64);
        for bytes in [three - 1, three + 1, four - 4, four + 1, MAX_TENSOR_BYTES, u64::MAX] {
            let words = format!("bytes follow; 2 rows of the layer `{}` are {three} or {four} bytes", named.0);
            wrong.push((one(sized(named, 2, bytes)), words));
        }
        // That of the other one.
        let bytes = if field == Field::P31 { three } else { four };
        let sent = vec![(sized(named, 2, bytes), vec![0; bytes as usize])];
        let words = format!(
            "{bytes} bytes for 2 rows of the layer `{}`: its field is that of {p}, of {} bytes an element",
            named.0,
            field.bytes()
        );
        wrong.push((sent, words));
        // Rows.
        let rows = ROWS + 1;
        wrong.push((one(sized(named, 0, 0)), "0 rows in a call".into()));
        let bytes = u64::from(rows) * (field.bytes() * layer.inputs) as u64;
        wrong.push((one(sized(named, rows, bytes)), "the stream is for 1 to 64".into()));
    }
    let others: Vec<(Vec<Sent>, &str)> = vec![
        (one(sized(named, u32::MAX, u64::from(u32::MAX) * 64)), "the stream is for 1 to 64"),
        (one(first(0, 0)), "0 rows in a call"),
        (one(first(ROWS + 1, 0)), "the stream is for 1 to 64"),
        (one(first(u32::MAX, 0)), "the stream is for 1 to 64"),
        (one(first(2, u64::MAX - 1)), "from row 18446744073709551614 on"),
        // Layers.
        (one(of("blocks.0.attention")), "no linear layer"),
        (one(of("blocks.0.attention.norm")), "no linear layer"),
        (one(of("embeddings.words")), "no linear layer"),
        (one(of("attention.qkv")), "no linear layer"),
        (one(of("")), "no linear layer"),
        (one(of("../../etc/passwd")), "no linear layer"),
        (one(of("blocks.0\n\u{202e}")), "no linear layer"),
        (one(masked(0, "pooling.x", 1, 0, 2)), "no linear layer"),
        (one(of(&long)), "129 characters"),
        (one(masked(0, &long, 1, 0, 2)), "129 characters"),
        // Order.
        (twice(0), "call 0 has been"),
        (one(local.all()), "open already"),
    ];
    wrong.extend(others.into_iter().map(|(sent, words)| (sent, words.to_owned())));
    let count = wrong.len();
    for (frames, words) in wrong {
        let mut stream = peer.open(&node, &local.all()).await;
        let answered = frames.len() - 1;
        for (frame, payload) in frames {
            stream.send(&frame, &payload).await.unwrap();
        }
        for _ in 0..answered {
            product(&mut stream, 0, &Parts::of(layer)).await;
        }
        let (_, why, reason) = failed(&mut stream).await;
        assert!(why == Refusal::Bad && reason.contains(&words), "{words}: {why:?} {reason}");
        assert!(reason.len() < 2000 && !reason.chars().any(char::is_control), "{reason:?}");
    }
    assert_eq!(node.offences(count).await, vec![Offence::Malformed; count]);

    // The largest number has no next one.
    let mut last = peer.open(&node, &local.all()).await;
    for _ in 0..2 {
        last.send(&multiply(u32::MAX, named, &share), &bytes(layer, &share)).await.unwrap();
    }
    product(&mut last, u32::MAX, &Parts::of(layer)).await;
    assert!(failed(&mut last).await.2.contains("has been"));

    // The first frame.
    for frame in [good.clone(), masked(0, name, 1, 0, 2), ToServer::Close] {
        let mut stream = peer.sent(&node, &frame).await;
        let (_, why, reason) = failed(&mut stream).await;
        assert!(why == Refusal::Bad && reason.contains("first frame"), "{reason}");
    }
    assert_eq!(node.offences(4).await, [Offence::Malformed; 4]);
    // What is opened may be elsewhere, or too much: no offence.
    let opened = |package, from, to, rows| ToServer::Open { package, from, to, rows };
    let all = BLOCKS as u32;
    for (frame, why, words) in [
        (opened(digest(9), 0, 1, 1), Refusal::NotHere, "is not served here"),
        (opened(local.digest, 0, all + 1, 1), Refusal::NotHere, "are not served here"),
        (opened(local.digest, 2, 2, 1), Refusal::NotHere, "are not served here"),
        (opened(local.digest, 3, 2, 1), Refusal::NotHere, "are not served here"),
        (opened(local.digest, u32::MAX, 0, 1), Refusal::NotHere, "are not served here"),
        (opened(local.digest, 0, all, 0), Refusal::Bad, "0 rows in a call"),
        (opened(local.digest, 0, all, u32::MAX), Refusal::Bad, "rows in a call: 1 to"),
    ] {
        let mut stream = peer.sent(&node, &frame).await;
        let (_, kind, reason) = failed(&mut stream).await;
        assert!(kind == why && reason.contains(words), "{kind:?} {reason}");
    }
    assert!(node.offences.lock().unwrap().is_empty());

    // Bytes that are no frames, and headers larger than any: the stream ends.
    let raw_peer = Peer::new(22, &[&node]).await;
    for raw in [&[7u8; 300][..], &u32::MAX.to_le_bytes(), &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let mut stream = raw_peer.open(&node, &local.all()).await;
        stream.write(raw).await.unwrap();
        let ended = stream.receive(SOON).await;
        assert!(matches!(ended, Ok(None) | Err(NetError::Closed(_))), "{ended:?}");
    }

    // And the honest one goes on.
    for (call, named @ (_, layer)) in (0..).zip([named, small]) {
        honest.send(&multiply(call, named, &share), &bytes(layer, &share)).await.unwrap();
        let parts = Parts::of(layer);
        let mut expected = vec![0; 2 * parts.columns()];
        reference::multiply(layer, &parts, &share, 2, &mut expected).unwrap();
        assert!(product(&mut honest, call, &parts).await == expected);
    }
    node.until_used(1).await;
    drop(honest);
    node.until_used(0).await;
}

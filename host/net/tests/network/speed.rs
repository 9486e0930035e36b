//! How fast tensors travel over loopback: printed, and a bound that no change should break by ten.

use crate::nodes::{SOON, event, node, soon};
use ostrakon_net::Event;
use ostrakon_protocol::share::{FromServer, ToServer};
use std::time::{Duration, Instant};

/// To and fro, one after the other: microseconds of each round trip, sorted.
async fn round_trips(bytes: usize, trips: u32) -> Vec<Duration> {
    let ((a, _a), (b, mut events)) = (node(1).await, node(2).await);
    a.dial(&b.addresses()[0]).await.unwrap();
    let mut opened = soon(a.share(b.node())).await.unwrap();
    let (from, mut taken) =
        event(&mut events, |e| if let Event::Share { from, stream } = e { Some((from, stream)) } else { None }).await;
    assert_eq!(from, a.node());
    let echo = tokio::spawn(async move {
        while let Some(frame) = taken.receive(SOON).await.unwrap() {
            let ToServer::Multiply { call, bytes, .. } = frame else { panic!("{frame:?}") };
            let payload = taken.payload(bytes, bytes).await.unwrap();
            taken.send(&FromServer::Product { call, bytes, took: 0 }, &payload).await.unwrap();
        }
    });
    let payload: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let length = bytes as u64;
    let mut took = Vec::new();
    for call in 0..trips {
        let began = Instant::now();
        let frame = ToServer::Multiply { call, layer: "blocks.0.up".into(), rows: 1, bytes: length };
        opened.send(&frame, &payload).await.unwrap();
        assert_eq!(opened.receive(SOON).await.unwrap(), Some(FromServer::Product { call, bytes: length, took: 0 }));
        let back = opened.payload(length, length).await.unwrap();
        took.push(began.elapsed());
        assert!(back == payload);
    }
    drop(opened);
    let _ = echo.await;
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_travel_fast() {
    for (bytes, trips) in [(100, 100), (200_000, 100), (800_000, 50), (2 << 20, 40)] {
        let took = round_trips(bytes, trips).await;
        let (best, median) = (took[took.len() / 10], took[took.len() / 2]);
        let rate = |time: Duration| 2.0 * bytes as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{bytes} bytes to and fro: median {median:?} ({:.0} MB/s), the best tenth {best:?} ({:.0} MB/s)",
            rate(median),
            rate(best)
        );
        assert!(median < Duration::from_secs(2), "{median:?}");
    }
}

//! Every decoder, fed with anything: no panic, little memory, a short clear error; and what decodes is encoded
//! as the very bytes that came in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use ostrakon_protocol::dispute::{Answered, Dispute, Disputed, Finding, SignedDispute};
use ostrakon_protocol::share::{FromServer, ToServer};
use ostrakon_protocol::wire::Refusal;
use ostrakon_protocol::{
    Batch, BlockContent, DecodeError, Digest, Document, Leg, Operation, PayloadError, Place, PublicKey, Receipt,
    Request, SignedReceipt, SignedTrace, SigningKey, Step, StoredTensor, Trace, TraceFile, Transcript, decode, encode,
};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what the current thread holds, and its peak.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the counters are plain cells of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get().wrapping_add(layout.size());
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` gives, and how much memory it held at most.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    HELD.set(0);
    PEAK.set(0);
    let result = work();
    (result, PEAK.get())
}

/// An empty text is one byte and 24 in memory, and a vector that grows holds three times its content.
fn little(what: &str, held: usize, bytes: usize) {
    assert!(held <= (16 << 10) + 100 * bytes, "{what}: {held} bytes held for {bytes}");
}

fn clear(what: &str, error: &impl ToString) {
    let text = error.to_string();
    assert!(text.len() < 300 && !text.chars().any(char::is_control), "{what}: {text:?}");
}

fn document<T: Document>(bytes: &[u8]) {
    let (result, held) = peak(|| decode::<T>(bytes));
    little(T::KIND, held, bytes.len());
    match result {
        Ok(value) => assert!(encode(&value) == bytes, "{}: two encodings of one value", T::KIND),
        Err(error) => clear(T::KIND, &error),
    }
}

/// Run every decoder on these bytes.
fn feed(bytes: &[u8]) {
    document::<SignedReceipt>(bytes);
    document::<SignedTrace>(bytes);
    document::<SignedDispute>(bytes);
    document::<Transcript>(bytes);
    document::<TraceFile>(bytes);
    document::<ToServer>(bytes);
    document::<FromServer>(bytes);
    let (result, held) = peak(|| Transcript::read(bytes));
    little("transcript", held, bytes.len());
    match result {
        Ok((transcript, ranges)) => {
            let head = transcript.head();
            assert!(bytes.starts_with(&head));
            let ends = ranges.iter().flat_map(|r| [r.input.clone(), r.products.clone()]);
            assert_eq!(ends.fold(head.len(), |at, r| if r.start == at { r.end } else { usize::MAX }), bytes.len());
        }
        Err(error) => clear("transcript", &error),
    }
    let (result, held) = peak(|| TraceFile::read(bytes));
    little("trace file", held, bytes.len());
    match result {
        Ok((file, ranges)) => {
            let head = file.head();
            assert!(bytes.starts_with(&head));
            let ends = ranges.into_iter();
            assert_eq!(ends.fold(head.len(), |at, r| if r.start == at { r.end } else { usize::MAX }), bytes.len());
        }
        Err(error) => clear("trace file", &error),
    }
}

fn digest(of: u8) -> Digest {
    Digest::from_bytes([of; 32])
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn receipt() -> SignedReceipt {
    let (package, lengths) = (digest(3), digest(9));
    let request = Request::of_texts(package, vec!["one".to_owned(), String::new(), "drei \u{1f98a}".to_owned()]);
    let place = Place { request: request.digest(), package, profile: digest(4), batch: 0, lengths };
    let step = |fuel| Step { block: "b".to_owned(), component: digest(1), input: digest(5), output: digest(6), fuel };
    let leg = Leg::sign(&key(), &place, "cpu", [0, 23, 24, 255, 1 << 16, u64::MAX].map(step).to_vec());
    let receipt = Receipt {
        request: request.digest(),
        package,
        profile: digest(4),
        batches: vec![Batch { texts: 3, lengths, legs: vec![leg] }],
        outputs: vec![digest(7); 3],
        answer: digest(8),
        swarm: None,
    };
    SignedReceipt::sign(&key(), receipt, Some(request))
}

fn trace() -> SignedTrace {
    let inputs = vec![("x".to_owned(), digest(1)), ("residual".to_owned(), digest(2))];
    let operation = |name: &str| Operation { name: name.to_owned(), inputs: inputs.clone(), output: digest(3) };
    let operations = ["layer b.norm", "gelu", "attention 12"].map(operation).to_vec();
    SignedTrace::sign(&key(), Trace { receipt: digest(4), batch: 300, block: "b".to_owned(), operations })
}

fn disputes() -> [SignedDispute; 2] {
    let node = key().public();
    let empty = Dispute {
        receipts: [digest(1), digest(2)],
        batch: None,
        block: None,
        asked: Vec::new(),
        operation: None,
        claimed: None,
        exact: None,
        finding: Finding::NoDifference,
    };
    let wrong = PublicKey::from_bytes([9; 32]);
    let full = Dispute {
        batch: Some(1),
        block: Some("b".to_owned()),
        asked: vec![
            Answered { count: 7, a: digest(1), b: digest(2) },
            Answered { count: 3, a: digest(1), b: digest(1) },
        ],
        operation: Some(Disputed { at: 3, name: "gelu".to_owned(), inputs: vec![("x".to_owned(), digest(5))] }),
        claimed: Some([digest(1), digest(2)]),
        exact: Some(digest(1)),
        finding: Finding::Right { node, wrong, reason: "because".to_owned() },
        ..empty.clone()
    };
    [empty, full].map(|dispute| SignedDispute::sign(&key(), dispute))
}

fn transcript() -> Vec<u8> {
    let content = BlockContent {
        batch: 0,
        block: "b",
        element: 1,
        dimensions: &[2, 1],
        lengths: &[1, -1, i32::MIN],
        input: &[1; 8],
        products: &[2; 16],
    };
    let blocks = vec![content.sign(&key(), &digest(1)); 2];
    let head = Transcript { receipt: digest(1), blocks }.head();
    [head, [[1; 8].as_slice(), &[2; 16]].concat().repeat(2)].concat()
}

fn trace_file() -> Vec<u8> {
    let tensor = |bytes| StoredTensor { digest: digest(1), element: 1, dimensions: vec![u32::MAX, 0], bytes };
    let file = TraceFile { signed: trace(), tensors: vec![tensor(4), tensor(0), tensor(9)] };
    [file.head(), vec![7; 13]].concat()
}

fn share(which: u8) -> ToServer {
    let layer = "blocks.0.up".to_owned();
    match which {
        0 => ToServer::Open { package: digest(1), from: 0, to: 6, rows: 128 },
        1 => ToServer::Multiply { call: 1, layer, rows: 128, bytes: 196_608 },
        _ => ToServer::Masked { call: 2, layer, stream: 3, seed: [5; 32], first: u64::MAX, rows: 128 },
    }
}

/// Whether these bytes have the length of a document in front.
fn is_framed(which: usize) -> bool {
    which == 5 || which == 6
}

/// Bytes that each decoder accepts, to start from.
fn good() -> Vec<Vec<u8>> {
    let bare = SignedReceipt { request: None, ..receipt() };
    let [empty, full] = disputes();
    let good = vec![
        encode(&receipt()),
        encode(&bare),
        encode(&trace()),
        encode(&empty),
        encode(&full),
        transcript(),
        trace_file(),
        encode(&share(0)),
        encode(&share(1)),
        encode(&share(2)),
        encode(&FromServer::Product { call: 9, bytes: 1 << 20, took: 77 }),
        encode(&FromServer::Failed { call: 9, why: Refusal::Busy, reason: "later".to_owned() }),
    ];
    assert_eq!(decode(&good[0]), Ok(receipt()));
    assert_eq!(decode(&good[1]), Ok(bare));
    assert_eq!(decode(&good[2]), Ok(trace()));
    assert_eq!(decode(&good[3]), Ok(empty));
    assert_eq!(decode(&good[4]), Ok(full));
    assert_eq!(Transcript::read(&good[5]).unwrap().1.len(), 2);
    assert_eq!(TraceFile::read(&good[6]).unwrap().1.len(), 3);
    assert!((0..3).all(|n| decode(&good[7 + usize::from(n)]) == Ok(share(n))));
    good
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Replace(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Tail(usize),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let token = || {
        let huge = |first: u8| [&[first], [0xff; 8].as_slice()].concat();
        prop::sample::select(vec![
            // Small numbers, longer than need be.
            vec![0x18, 0x01],
            vec![0x19, 0x00, 0x01],
            vec![0x1a, 0, 0, 0, 1],
            vec![0x1b, 0, 0, 0, 0, 0, 0, 0, 1],
            vec![0x98, 0x01],
            vec![0x78, 0x01],
            vec![0x58, 0x20],
            vec![0x59, 0x00, 0x20],
            // Indefinite lengths, and their end.
            vec![0x9f],
            vec![0x9f, 0xff],
            vec![0x7f, 0x61, b'b', 0xff],
            vec![0x5f, 0xff],
            vec![0xbf, 0xff],
            vec![0xff],
            // Absurd counts.
            huge(0x9b),
            huge(0x5b),
            huge(0x7b),
            huge(0xbb),
            huge(0x1b),
            vec![0x9a, 0x7f, 0xff, 0xff, 0xff],
            // Empty things, other types, tags.
            vec![0x80],
            vec![0x60],
            vec![0x40],
            vec![0xa0],
            vec![0xf6],
            vec![0xf7],
            vec![0xf4],
            vec![0xc0],
            vec![0xd9, 0xd9, 0xf7],
            vec![0x20],
            vec![0xfb, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![0x81; 64],
        ])
    };
    prop_oneof![
        3 => (at(), 0..8u8).prop_map(|(i, bit)| Change::Flip(i, bit)),
        1 => (at(), any::<u8>()).prop_map(|(i, b)| Change::Set(i, b)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(i, b)| Change::Insert(i, b)),
        2 => (at(), token()).prop_map(|(i, t)| Change::Insert(i, t)),
        2 => (at(), token()).prop_map(|(i, t)| Change::Replace(i, t)),
        1 => (at(), 1_usize..80).prop_map(|(i, n)| Change::Remove(i, n)),
        1 => (at(), 1_usize..200).prop_map(|(i, n)| Change::Repeat(i, n)),
        1 => (1_usize..200).prop_map(Change::Tail),
        1 => at().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match change {
        Change::Flip(i, bit) => bytes[i.index(length)] ^= 1 << bit,
        Change::Set(i, b) => bytes[i.index(length)] = *b,
        Change::Insert(i, new) => {
            let at = i.index(length);
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Replace(i, new) => {
            let at = i.index(length);
            bytes.splice(at..=at, new.iter().copied());
        }
        Change::Remove(i, n) => {
            let at = i.index(length);
            bytes.drain(at..(at + n).min(length));
        }
        Change::Repeat(i, n) => {
            let at = i.index(length);
            let piece = bytes[at..(at + n).min(length)].to_vec();
            bytes.splice(at..at, piece);
        }
        Change::Tail(n) => bytes.extend_from_within(length.saturating_sub(*n)..),
        Change::Cut(i) => bytes.truncate(i.index(length)),
    }
}

/// A file with its document of this length in front, as transcripts and traces have it.
fn framed(document: &[u8]) -> Vec<u8> {
    [&(document.len() as u64).to_le_bytes(), document].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
        feed(&framed(&bytes));
    }

    /// Past kind and version, so that the content is reached.
    #[test]
    fn any_content(which in 0..12usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let good = good();
        let frame = if is_framed(which) { 8 } else { 0 };
        // The array, the text of its kind, the version.
        let kind = usize::from(good[which][frame + 1] & 0x1f);
        let document = [&good[which][frame..frame + kind + 3], &bytes].concat();
        feed(&document);
        feed(&framed(&document));
    }
}

#[test]
fn changed_files() {
    let good = good();
    let config = ProptestConfig::with_cases(10_000);
    let strategy = (0..good.len(), prop::collection::vec(change(), 1..5));
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |(which, changes)| {
            let mut bytes = good[which].clone();
            changes.iter().for_each(|c| apply(&mut bytes, c));
            feed(&bytes);
            // With the length that fits, or every longer document would be cut off.
            if is_framed(which) {
                let document = bytes.get(8..).unwrap_or_default();
                feed(&framed(document));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_single_bit_counts() {
    for (which, good) in good().into_iter().enumerate() {
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            feed(&bytes);
            // What still decodes is another value, hence another digest, and the signature does not fit it.
            match which {
                0 | 1 => {
                    if let Ok(read) = decode::<SignedReceipt>(&bytes) {
                        let same = read.request.as_ref().is_none_or(|r| r.digest() == read.receipt.request);
                        assert!(!(read.is_signed() && same), "bit {bit}");
                    }
                }
                2 => assert!(!decode::<SignedTrace>(&bytes).is_ok_and(|read| read.is_signed()), "bit {bit}"),
                3 | 4 => assert!(!decode::<SignedDispute>(&bytes).is_ok_and(|read| read.is_signed()), "bit {bit}"),
                _ => {}
            }
        }
        for length in 0..good.len() {
            feed(&good[..length]);
            let whole = match which {
                5 => Transcript::read(&good[..length]).is_ok(),
                6 => TraceFile::read(&good[..length]).is_ok(),
                7..=9 => decode::<ToServer>(&good[..length]).is_ok(),
                10.. => decode::<FromServer>(&good[..length]).is_ok(),
                _ => decode::<SignedReceipt>(&good[..length]).is_ok(),
            };
            assert!(!whole, "{which}, cut to {length}");
        }
    }
}

#[test]
fn repetitive_bytes_that_hurt_decoders() {
    let good = good();
    for piece in [
        [0x81].as_slice(),
        &[0x80],
        &[0x82],
        &[0x9f],
        &[0xff],
        &[0x60],
        &[0x40],
        &[0x00],
        &[0xf6],
        &[0xa1],
        &[0xbf],
        &[0xc0],
        &[0x7f],
        &[0x5f],
        &[0x98, 0xff],
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        let many = piece.repeat((256 << 10) / piece.len());
        feed(&many);
        for (which, good) in good.iter().enumerate() {
            let frame = if is_framed(which) { 8 } else { 0 };
            let kind = usize::from(good[frame + 1] & 0x1f);
            let start = &good[frame..frame + kind + 3];
            for document in [[start, &many].concat(), [start, &[0x9a, 0, 4, 0, 0], &many].concat()] {
                feed(&document);
                feed(&framed(&document));
            }
        }
    }
}

#[test]
fn other_kinds_and_versions_are_told_apart() {
    let kind = decode::<SignedReceipt>(&encode(&trace())).unwrap_err();
    assert!(kind.to_string().contains("not an ostrakon receipt but an ostrakon trace"), "{kind}");
    let version = SignedTrace::KIND.len() + 2;
    for (code, found) in [(vec![0], 0), (vec![2], 2), (vec![0x1b, 1, 0, 0, 0, 0, 0, 0, 0], 1 << 56)] {
        let mut bytes = encode(&trace());
        bytes.splice(version..=version, code);
        let error = decode::<SignedTrace>(&bytes).unwrap_err();
        assert_eq!(error, DecodeError::Version { kind: SignedTrace::KIND, found, known: 1 });
    }
    // The right version in too many bytes.
    let mut bytes = encode(&trace());
    bytes.splice(version..=version, [0x18, 1]);
    assert!(matches!(decode::<SignedTrace>(&bytes), Err(DecodeError::NotCanonical { .. })));
}

#[test]
fn too_large_is_said_before_anything_is_read() {
    let bytes = vec![0x83; SignedDispute::LIMIT + 1];
    assert!(matches!(decode::<SignedDispute>(&bytes), Err(DecodeError::TooLarge { .. })));
    let absurd = [[0xff; 8].as_slice(), b"x"].concat();
    assert!(matches!(Transcript::read(&absurd), Err(PayloadError::Truncated { .. })));
    assert!(matches!(TraceFile::read(&absurd), Err(PayloadError::Truncated { .. })));
}

#[test]
fn another_document_says_what_it_is() {
    for error in [Transcript::read(&encode(&receipt())).unwrap_err(), TraceFile::read(&encode(&receipt())).unwrap_err()]
    {
        assert!(matches!(&error, PayloadError::Document(DecodeError::Kind { found: Some(_), .. })), "{error}");
        assert!(error.to_string().contains("but an ostrakon receipt"), "{error}");
    }
}

/// A change here gives every signed document another digest.
#[test]
fn the_encoding_does_not_drift() {
    let bytes = encode(&receipt());
    // Keys, signatures and digests are byte strings and nothing else.
    let (key, request) = (*key().public().as_bytes(), *receipt().receipt.request.as_bytes());
    let signature = hex::decode(receipt().signature.to_hex()).unwrap();
    let frame = [[0x83, 0x70].as_slice(), b"ostrakon receipt", &[1, 0x84]].concat();
    let start = [&frame, [0x58, 32].as_slice(), &key, &[0x58, 64], &signature, &[0x86, 0x58, 32], &request].concat();
    assert!(bytes.starts_with(&start));
    let golden = good().into_iter().map(|bytes| Digest::of_content(&bytes).to_string()[..16].to_owned());
    let known = [
        "4120b3faa5f6536a",
        "01957d58de8dd4e0",
        "c6aff0c350ab5165",
        "c7d25e0793ac5c7f",
        "3206524c48bc9013",
        "966f7f6f1a4de40f",
        "7e24cb880ffb615d",
        "d332cfcd4c3443bd",
        "ab49d0d1b03cd566",
        "72cb721a77b623fc",
        "392dcae50568b8de",
        "3983d2c1383f5f81",
    ];
    assert_eq!(golden.collect::<Vec<_>>(), known);
}

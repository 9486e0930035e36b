//! Every parser of a foreign file, fed with anything: no panic, little memory, a short clear error.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod sample;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use ostrakon_package::{Manifest, manifest::ManifestFault, signature::PackageSignature, trust, weights};
use proptest::prelude::*;
use safetensors::SafeTensors;

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

/// Run every parser on these bytes.
fn feed(bytes: &[u8]) {
    let check = |what: &str, error: Option<String>, held: usize| {
        // A few hundred bytes for each of the input are what a document tree costs; nothing may depend
        // on numbers that the input merely mentions.
        assert!(held <= (64 << 10) + 400 * bytes.len(), "{what}: {held} bytes held for {}", bytes.len());
        if let Some(error) = error {
            assert!(error.len() < 1500 && !error.chars().any(char::is_control), "{what}: {error:?}");
        }
    };
    let (result, held) = peak(|| Manifest::parse(bytes));
    let error = result.err().and_then(|e| if let ManifestFault::Malformed(why) = e { Some(why) } else { None });
    check("manifest", error, held);
    let (result, held) = peak(|| PackageSignature::parse(bytes));
    check("signature", result.err(), held);
    let (result, held) = peak(|| trust::parse(bytes));
    check("trust", result.err(), held);
    let (result, held) = peak(|| weights::read("f", bytes));
    check("weights", result.as_ref().err().map(ToString::to_string), held);
    if let Ok(tensors) = result {
        // Whatever we accept, the usual reader accepts, and sees the same.
        let theirs = SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(theirs.len(), tensors.len());
        for tensor in tensors {
            let view = theirs.tensor(&tensor.name).unwrap();
            assert_eq!(view.shape(), tensor.dims);
            assert_eq!(view.data(), &bytes[tensor.range]);
        }
    }
}

/// Texts that each parser accepts, to start from.
fn good() -> Vec<Vec<u8>> {
    let sample = sample::sample();
    let read = |name| std::fs::read(sample.path.join(name)).unwrap();
    let trust = format!("[[signer]]\nname = \"Ada\"\nkey = \"{}\"\n", sample::key().public());
    let good = vec![
        read("package.toml"),
        read("package.sig"),
        read("weights/blocks.0.safetensors"),
        read("weights/embeddings.safetensors"),
        trust.into_bytes(),
    ];
    assert!(Manifest::parse(&good[0]).is_ok());
    assert!(PackageSignature::parse(&good[1]).is_ok());
    assert!(weights::read("f", &good[2]).is_ok() && weights::read("f", &good[3]).is_ok());
    assert!(trust::parse(&good[4]).is_ok());
    good
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let token = prop::sample::select(vec![
        "[[",
        "]]",
        "{",
        "}",
        "[",
        "\"",
        "'''",
        "\n",
        "=",
        ".",
        ",",
        ":",
        "\\u0000",
        "9999999999999999999",
        "-1",
        "1e999",
        "nan",
        "0",
        "18446744073709551615",
        "null",
        "..",
        "/",
        "\u{202e}",
        "[[blocks]]\n",
        "[a.b.c]\n",
        "\"shape\":[0],",
    ]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Change::Set(i, b)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(i, b)| Change::Insert(i, b)),
        (at(), token).prop_map(|(i, t)| Change::Insert(i, t.as_bytes().to_vec())),
        (at(), 1_usize..40).prop_map(|(i, n)| Change::Remove(i, n)),
        (at(), 1_usize..200).prop_map(|(i, n)| Change::Repeat(i, n)),
        at().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match change {
        Change::Set(i, b) => bytes[i.index(length)] = *b,
        Change::Insert(i, new) => {
            let at = i.index(length);
            bytes.splice(at..at, new.iter().copied());
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
        Change::Cut(i) => bytes.truncate(i.index(length)),
    }
}

/// A header that is well-formed JSON of the right kind with numbers that fit together only by luck.
fn header() -> impl Strategy<Value = String> {
    let number = prop_oneof![0_u64..40, prop::sample::select(vec![u64::MAX, 1 << 32, 1 << 63, i64::MAX as u64])];
    let dtype = prop::sample::select(vec!["I8", "F32", "F64", "i8", ""]);
    let tensor = ("[a-c](\\.[a-c])?", dtype, prop::collection::vec(number.clone(), 0..10), number.clone(), number);
    prop::collection::vec(tensor, 0..5).prop_map(|tensors| {
        let entries: Vec<String> = tensors
            .into_iter()
            .map(|(name, dtype, shape, a, b)| {
                format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{a},{b}]}}")
            })
            .collect();
        format!("{{{}}}", entries.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        feed(text.as_bytes());
    }

    #[test]
    fn any_header(header in header(), data in 0_usize..80) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        feed(&bytes);
    }
}

#[test]
fn changed_files() {
    let good = good();
    let config = ProptestConfig::with_cases(3000);
    let strategy = (0..good.len(), prop::collection::vec(change(), 1..6));
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |(which, changes)| {
            let mut bytes = good[which].clone();
            changes.iter().for_each(|c| apply(&mut bytes, c));
            feed(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn repetitive_texts_that_hurt_parsers() {
    for piece in
        ["[", "{", "[[a]]\n", "a.", "a=[", "a={a=", "\"", "'''", "[a.b]\n", "{\"a\":", "[[[[", "\\", "#", "\n", "0"]
    {
        let text = piece.repeat((256 << 10) / piece.len());
        feed(text.as_bytes());
        feed(format!("format = 1\n{text}").as_bytes());
        feed(format!("format = 1\nname = {text}").as_bytes());
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend(text.as_bytes());
        feed(&header);
    }
}

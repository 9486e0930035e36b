//! Files that are what they say, and files that lie.

use super::header::Header;
use super::{Gguf, ImportError, writer::Writer};

fn small() -> Writer {
    let mut w = Writer::new();
    w.text("general.architecture", "llama");
    w.number("a.number", 7);
    w.set("a.small", 0, vec![255]);
    w.set("a.negative", 5, (-3i32).to_le_bytes().to_vec());
    w.float("a.float", 0.5);
    w.flag("a.flag", true);
    w.texts("a.texts", &["one".to_owned(), String::new(), "drei \u{fc}".to_owned()]);
    w.integers("a.integers", &[1, -1, 3]);
    w.floats("x", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    w.floats("y", &[4], &[0.5; 4]);
    w
}

fn open(w: &Writer) -> Result<Gguf, ImportError> {
    let directory = tempfile::tempdir().unwrap();
    Gguf::open(&w.write(directory.path()))
}

#[test]
fn what_goes_in_comes_out() {
    for version in [2, 3] {
        let gguf = open(&Writer { version, ..small() }).unwrap();
        assert_eq!(gguf.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(gguf.number("a.number").unwrap(), Some(7));
        assert_eq!(gguf.number("a.small").unwrap(), Some(255));
        assert_eq!(gguf.float("a.float").unwrap(), Some(0.5));
        assert_eq!(gguf.flag("a.flag").unwrap(), Some(true));
        assert_eq!(gguf.texts("a.texts").unwrap(), Some(vec!["one", "", "drei \u{fc}"]));
        assert_eq!(gguf.integers("a.integers").unwrap(), Some(vec![1, -1, 3]));
        assert_eq!(gguf.text("nothing").unwrap(), None);
        let x = gguf.tensor("x").unwrap();
        assert_eq!((x.shape(), x.floats()), (vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(gguf.tensors().map(|t| t.name().to_owned()).collect::<Vec<_>>(), ["x", "y"]);
        for wrong in [
            gguf.number("a.negative").map(|_| ()),
            gguf.number("a.float").map(|_| ()),
            gguf.text("a.number").map(|_| ()),
            gguf.texts("a.integers").map(|_| ()),
        ] {
            assert!(wrong.unwrap_err().to_string().contains("the metadata `a."));
        }
    }
}

#[test]
fn another_alignment_is_kept() {
    for alignment in [8, 64, 1024] {
        let mut w = Writer { alignment, ..small() };
        w.number("general.alignment", u32::try_from(alignment).unwrap());
        assert_eq!(open(&w).unwrap().tensor("y").unwrap().floats(), [0.5; 4]);
    }
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let bytes = small().bytes();
    for length in 0..bytes.len() {
        assert!(Header::parse(&bytes[..length]).is_err(), "{length}");
    }
    Header::parse(&bytes).unwrap();
}

#[test]
fn whatever_a_byte_is_ranges_stay_inside() {
    let bytes = small().bytes();
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 8, 9, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            if let Ok(header) = Header::parse(&bytes) {
                assert!(header.tensors.iter().all(|t| t.range.start <= t.range.end && t.range.end <= bytes.len()));
            }
        }
    }
}

fn refusal(spoil: impl FnOnce(&mut Writer)) -> String {
    let mut w = small();
    spoil(&mut w);
    open(&w).err().expect("must be refused").to_string()
}

type Fault = Box<dyn FnOnce(&mut Writer)>;

#[test]
fn faults_are_named() {
    let faults: [(&str, Fault); 17] = [
        ("version 1 is too old", Box::new(|w| w.version = 1)),
        ("version 99", Box::new(|w| w.version = 99)),
        ("big-endian", Box::new(|w| w.version = 3u32.swap_bytes())),
        ("`a.number` is there twice", Box::new(|w| w.metadata.push(w.metadata[1].clone()))),
        ("`x` is there twice", Box::new(|w| w.tensors.push(w.tensors[0].clone()))),
        ("the type 13 is not one of GGUF's", Box::new(|w| w.set("a.number", 13, vec![0; 8]))),
        ("lists of lists", Box::new(|w| w.list("a.texts", 9, 1, &[0; 64]))),
        ("a truth value is 2", Box::new(|w| w.set("a.flag", 7, vec![2]))),
        ("at most 16777216", Box::new(|w| w.list("a.texts", 8, usize::MAX, &[]))),
        ("at most 4194304", Box::new(|w| w.set("a.number", 8, u64::MAX.to_le_bytes().to_vec()))),
        ("not UTF-8", Box::new(|w| w.set("a.number", 8, [&1u64.to_le_bytes()[..], &[0xff]].concat()))),
        ("needs a power of two", Box::new(|w| w.number("general.alignment", 24))),
        ("not a multiple of the alignment", Box::new(|w| w.tensor("y").offset = Some(33))),
        ("overlap", Box::new(|w| w.tensor("y").offset = Some(0))),
        ("it is cut short", Box::new(|w| w.tensor("y").offset = Some(1 << 40))),
        ("IQ2_XS (17)", Box::new(|w| w.tensor("x").kind = 17)),
        ("Q4_1 needs a multiple of 32", Box::new(|w| w.tensor("x").kind = 3)),
    ];
    for (words, spoil) in faults {
        let text = refusal(spoil);
        assert!(text.contains(words) && text.contains("model.gguf"), "{words}: {text}");
    }
}

#[test]
fn absurd_shapes_are_refused() {
    for dims in [vec![], vec![0], vec![3, 0], vec![1; 5], vec![u64::MAX], vec![1 << 40, 1 << 40], vec![1 << 62, 4]] {
        let text = refusal(|w| w.tensor("x").dims = dims.clone());
        assert!(text.contains("`x`"), "{dims:?}: {text}");
    }
    for offset in [u64::MAX, u64::MAX - 31, 1 << 63] {
        refusal(|w| w.tensor("y").offset = Some(offset));
    }
}

#[test]
fn counts_are_bounded_before_anything_is_read() {
    for at in [8, 16] {
        let mut bytes = small().bytes();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let why = Header::parse(&bytes).unwrap_err();
        assert!(why.contains("at most"), "{why}");
    }
}

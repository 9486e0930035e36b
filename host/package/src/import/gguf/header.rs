//! The header of a GGUF file, checked as it is read.
//!
//! # Why
//!
//! The file comes from strangers: every count, length and offset in it may lie. What is accepted here
//! can be used without looking twice: every range lies inside the file.
//!
//! # How
//!
//! 1. Magic, version, the number of tensors and of metadata entries, each bounded.
//! 2. Metadata: keys and values are walked, not copied; a string or a list is kept as where it lies.
//! 3. Tensors: name, shape, type, offset. Their bytes must lie inside the file, aligned, and no two
//!    may overlap.

use super::blocks::Kind;
use crate::error::quote;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Most metadata entries.
const MAX_ENTRIES: u64 = 4096;
/// Most tensors.
const MAX_TENSORS: u64 = 1 << 15;
/// Longest key and longest tensor name, in bytes.
const MAX_KEY: u64 = 256;
/// Longest string.
const MAX_STRING: u64 = 4 << 20;
/// Most elements of a list.
const MAX_LIST: u64 = 1 << 24;
/// Most dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// Largest alignment of tensors.
const MAX_ALIGNMENT: u64 = 1 << 16;
/// What tensors are aligned to when the file says nothing.
const ALIGNMENT: u64 = 32;
/// The key that says something.
const ALIGNMENT_KEY: &str = "general.alignment";

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Any unsigned type.
    Unsigned(u64),
    /// Any signed type.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8, where it lies in the file.
    Text(Range<usize>),
    /// Values of one type.
    List(List),
}

/// A list of values, where they lie in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct List {
    pub(super) element: Element,
    pub(super) count: usize,
    pub(super) range: Range<usize>,
}

/// What a value is, by its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Element {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its bytes; none where they differ from value to value.
    const fn bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::List => None,
        }
    }
}

/// A tensor: rows of weights one after another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Columns first, as the file has them.
    pub(super) dims: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// All that the header says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    /// In the order of the file.
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Read and check the header of a file with these bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "the magic")? != super::MAGIC {
            return Err("this is no GGUF file: it does not begin with `GGUF`".to_owned());
        }
        match cursor.u32("the version")? {
            2 | 3 => {}
            1 => return Err("GGUF version 1 is too old to be read: convert the file to version 3".to_owned()),
            swapped if swapped.swap_bytes() <= 16 => {
                return Err("this GGUF file is big-endian: only little-endian ones can be read".to_owned());
            }
            other => return Err(format!("GGUF version {other} cannot be read: 2 and 3 can")),
        }
        let tensors = bounded("the number of tensors", cursor.u64("the number of tensors")?, MAX_TENSORS)?;
        let entries =
            bounded("the number of metadata entries", cursor.u64("the number of metadata entries")?, MAX_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for number in 0..entries {
            let (key, value) = cursor.entry().map_err(|why| format!("metadata entry {number}: {why}"))?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(format!("the metadata key {} is there twice", quote(key)));
            }
        }
        let alignment = alignment(&metadata)?;
        // Bounded by the file: an entry has at least 24 bytes.
        let mut placed = Vec::new();
        for number in 0..tensors {
            placed.push(cursor.tensor(alignment).map_err(|why| format!("tensor {number}: {why}"))?);
        }
        let start = (cursor.at as u64).checked_next_multiple_of(alignment).ok_or("the header has no end")?;
        let tensors = placed.into_iter().map(|t| t.place(start, bytes.len() as u64)).collect::<Result<Vec<_>, _>>()?;
        check_apart(&tensors)?;
        Ok(Self { metadata, tensors })
    }
}

fn bounded(what: &str, value: u64, most: u64) -> Result<u64, String> {
    if value <= most { Ok(value) } else { Err(format!("{what} is {value}, at most {most} are read")) }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, String> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= MAX_ALIGNMENT => Ok(*value),
        Some(Value::Unsigned(value)) => {
            Err(format!("`{ALIGNMENT_KEY}` is {value}: needs a power of two of at most {MAX_ALIGNMENT}"))
        }
        Some(_) => Err(format!("`{ALIGNMENT_KEY}` is not an unsigned integer")),
    }
}

/// No name twice, no byte in two tensors.
fn check_apart(tensors: &[TensorInfo]) -> Result<(), String> {
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(format!("the tensor {} is there twice", quote(&twice.name)));
    }
    let mut sorted: Vec<&TensorInfo> = tensors.iter().collect();
    sorted.sort_by_key(|t| (t.range.start, t.range.end));
    let overlap = sorted.windows(2).find_map(|pair| match pair {
        [a, b] if b.range.start < a.range.end => Some((a, b)),
        _ => None,
    });
    match overlap {
        Some((a, b)) => Err(format!(
            "the tensors {} and {} overlap: bytes {:?} and {:?}",
            quote(&a.name),
            quote(&b.name),
            a.range,
            b.range
        )),
        None => Ok(()),
    }
}

/// A tensor whose place is not yet checked against the file.
struct Unplaced {
    name: String,
    kind: Kind,
    dims: Vec<usize>,
    offset: u64,
    bytes: u64,
}

impl Unplaced {
    fn place(self, start: u64, file: u64) -> Result<TensorInfo, String> {
        let first = start.checked_add(self.offset);
        let end = first.and_then(|first| first.checked_add(self.bytes)).filter(|&end| end <= file);
        match (first.map(usize::try_from), end.map(usize::try_from)) {
            (Some(Ok(first)), Some(Ok(end))) => {
                Ok(TensorInfo { name: self.name, kind: self.kind, dims: self.dims, range: first..end })
            }
            _ => Err(format!(
                "the tensor {} has {} bytes at {} after byte {start}, but the file ends at {file}: it is cut short",
                quote(&self.name),
                self.bytes,
                self.offset
            )),
        }
    }
}

/// Reads forward; every step is checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let Some((taken, end)) = end.and_then(|end| Some((self.bytes.get(self.at..end)?, end))) else {
            return Err(format!("{what} needs {count} bytes at byte {}, the file has {}", self.at, self.bytes.len()));
        };
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N as u64, what)?;
        taken.try_into().map_err(|_| format!("{what} is cut short"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<(&'a str, Range<usize>), String> {
        let length = self.u64(what)?;
        if length > limit {
            return Err(format!("{what} has {length} bytes, at most {limit} are read"));
        }
        let start = self.at;
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| format!("{what} is not UTF-8 at byte {}", start + e.valid_up_to()))?;
        Ok((text, start..self.at))
    }

    fn entry(&mut self) -> Result<(&'a str, Value), String> {
        let (key, _) = self.text("the key", MAX_KEY)?;
        let value = self.value().map_err(|why| format!("{}: {why}", quote(key)))?;
        Ok((key, value))
    }

    fn element(&mut self) -> Result<Element, String> {
        let number = self.u32("the type")?;
        Element::of(number).ok_or_else(|| format!("the type {number} is not one of GGUF's"))
    }

    fn value(&mut self) -> Result<Value, String> {
        let what = "the value";
        Ok(match self.element()? {
            Element::U8 => Value::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            Element::I8 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            Element::U16 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            Element::I16 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            Element::U32 => Value::Unsigned(u32::from_le_bytes(self.array(what)?).into()),
            Element::I32 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            Element::U64 => Value::Unsigned(self.u64(what)?),
            Element::I64 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            Element::F32 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            Element::F64 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            Element::Bool => match self.array(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("a truth value is {other}, not 0 or 1")),
            },
            Element::Text => Value::Text(self.text(what, MAX_STRING)?.1),
            Element::List => Value::List(self.list()?),
        })
    }

    fn list(&mut self) -> Result<List, String> {
        let element = self.element()?;
        let count = bounded("the length of a list", self.u64("the length of a list")?, MAX_LIST)?;
        let start = self.at;
        match (element, element.bytes()) {
            (_, Some(bytes)) => {
                self.take(count * bytes, "a list")?;
            }
            (Element::Text, None) => {
                for number in 0..count {
                    self.text("a string", MAX_STRING).map_err(|why| format!("element {number}: {why}"))?;
                }
            }
            (_, None) => return Err("lists of lists are not read".to_owned()),
        }
        let count = usize::try_from(count).map_err(|_| "the list is too long for this machine".to_owned())?;
        Ok(List { element, count, range: start..self.at })
    }

    fn tensor(&mut self, alignment: u64) -> Result<Unplaced, String> {
        let (name, _) = self.text("the name", MAX_KEY)?;
        let unplaced = self.shape(name, alignment).map_err(|why| format!("{} {why}", quote(name)))?;
        Ok(unplaced)
    }

    fn shape(&mut self, name: &str, alignment: u64) -> Result<Unplaced, String> {
        let rank = self.u32("the number of dimensions")?;
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(format!("has {rank} dimensions: needs 1 to {MAX_RANK}"));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            dims.push(self.u64("a dimension")?);
        }
        let kind = Kind::of(self.u32("the type")?)?;
        let offset = self.u64("the offset")?;
        let (weights, bytes) = (kind.weights() as u64, kind.bytes() as u64);
        let columns = dims.first().copied().unwrap_or_default();
        let total = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
        let Some(bytes) = total.and_then(|n| (n / weights).checked_mul(bytes)) else {
            return Err(format!("has the shape {dims:?}, which is empty or too large"));
        };
        if columns % weights != 0 {
            return Err(format!("has rows of {columns} weights: {} needs a multiple of {weights}", kind.name()));
        }
        if offset % alignment != 0 {
            return Err(format!("lies at {offset}, which is not a multiple of the alignment {alignment}"));
        }
        let dims = dims.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        let dims = dims.map_err(|_| "is too large for this machine".to_owned())?;
        Ok(Unplaced { name: name.to_owned(), kind, dims, offset, bytes })
    }
}

//! NPY, the files in which NumPy keeps an array: read with bounds, written in one form.
//!
//! A file is `\x93NUMPY`, a version, the length of a header, the header (a Python dictionary with `descr`,
//! `fortran_order` and `shape`), then the elements. Of the dictionary only what NumPy writes is understood.

use ostrakon_nn::{NnError, Tensor, TensorType};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// Most bytes of a file.
pub const MOST: u64 = 1 << 30;
/// Longest header: more than any that NumPy writes for an array of a plain type.
const MAX_HEADER: usize = 4096;
const MAGIC: &[u8] = b"\x93NUMPY";
/// The elements begin at a multiple of this.
const ALIGN: usize = 64;

/// A file is not an array that can be a tensor.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The system's word.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// More bytes than are read.
    #[error("it has more than {MOST} bytes")]
    TooLarge,
    /// Not in this format.
    #[error("this is not an NPY file: {0}")]
    Malformed(&'static str),
    /// An array that no tensor can be.
    #[error("{0}")]
    Unsupported(String),
    /// Its shape or its length.
    #[error(transparent)]
    Tensor(#[from] NnError),
}

/// The array in a file.
///
/// # Errors
/// A file that cannot be read, is too large or is not an array of a type that tensors have.
pub fn read(path: &Path) -> Result<Tensor, NpyError> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(NpyError::TooLarge);
    }
    parse(&bytes)
}

/// The array in these bytes.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Result<Tensor, NpyError> {
    let malformed = NpyError::Malformed;
    let rest = bytes.strip_prefix(MAGIC).ok_or(malformed("it does not begin with \\x93NUMPY"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(malformed("it is cut off"))?;
    let (length, rest) = match version {
        [1, 0] => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        [2 | 3, 0] => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => return Err(malformed("its version is not 1, 2 or 3")),
    }
    .ok_or(malformed("it is cut off"))?;
    if length > MAX_HEADER {
        return Err(malformed("its header is too long"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or(malformed("it is cut off"))?;
    let header = std::str::from_utf8(header).map_err(|_| malformed("its header is not text"))?;
    let header = Header::parse(header).ok_or(malformed("its header is not one that NumPy writes"))?;
    let ty = header.element()?;
    if header.fortran && header.shape.len() > 1 {
        let text = "its elements are in Fortran's order: save numpy.ascontiguousarray(x)".to_owned();
        return Err(NpyError::Unsupported(text));
    }
    // A single value has the shape [1] in wasi-nn.
    let dims = if header.shape.is_empty() { vec![1] } else { header.shape };
    Ok(Tensor::new(dims, ty, data.to_vec())?)
}

/// The header's dictionary.
#[derive(Default)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u32>,
}

impl Header {
    fn parse(text: &str) -> Option<Self> {
        let mut inside = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let mut header = Self::default();
        let mut seen = [false; 3];
        while !inside.is_empty() {
            let (key, rest) = quoted(inside)?;
            let value = rest.trim_start().strip_prefix(':')?.trim_start();
            let (at, rest) = match key {
                "descr" => {
                    let (descr, rest) = quoted(value)?;
                    descr.clone_into(&mut header.descr);
                    (0, rest)
                }
                "fortran_order" => {
                    let yes = value.strip_prefix("True");
                    header.fortran = yes.is_some();
                    (1, yes.or_else(|| value.strip_prefix("False"))?)
                }
                "shape" => {
                    let (sizes, rest) = value.strip_prefix('(')?.split_once(')')?;
                    header.shape = shape(sizes)?;
                    (2, rest)
                }
                _ => return None,
            };
            if std::mem::replace(seen.get_mut(at)?, true) {
                return None;
            }
            let rest = rest.trim_start();
            inside = if rest.is_empty() { rest } else { rest.strip_prefix(',')?.trim_start() };
        }
        seen.iter().all(|&seen| seen).then_some(header)
    }

    fn element(&self) -> Result<TensorType, NpyError> {
        if let Some((_, ty)) = ELEMENTS.iter().find(|(descr, _)| *descr == self.descr) {
            return Ok(*ty);
        }
        let descr: String = self.descr.chars().filter(|c| !c.is_control()).take(16).collect();
        Err(NpyError::Unsupported(format!(
            "its elements are `{descr}`: a tensor takes <f2, <f4, <f8, |u1, <i4 and <i8; convert it with x.astype(...)"
        )))
    }
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text.strip_prefix(quote)?.split_once(quote)
}

/// `3, 4`, `3,` or nothing.
fn shape(text: &str) -> Option<Vec<u32>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let sizes = text.strip_suffix(',').unwrap_or(text);
    sizes.split(',').map(|size| size.trim().parse().ok()).collect()
}

const ELEMENTS: [(&str, TensorType); 6] = [
    ("<f2", TensorType::Fp16),
    ("<f4", TensorType::Fp32),
    ("<f8", TensorType::Fp64),
    ("|u1", TensorType::U8),
    ("<i4", TensorType::I32),
    ("<i8", TensorType::I64),
];

/// Write a tensor. NumPy has no BF16: such a tensor is written as 32-bit floats, which hold every value of it.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, tensor: &Tensor) -> io::Result<()> {
    let mut out = io::BufWriter::new(fs::File::create(path)?);
    let widened: Vec<u8>;
    let bytes = tensor.bytes();
    let (descr, bytes) = match ELEMENTS.iter().find(|(_, ty)| *ty == tensor.ty()) {
        Some((descr, _)) => (*descr, bytes.as_ref()),
        None => {
            widened = bytes.as_chunks::<2>().0.iter().flat_map(|&[low, high]| [0, 0, low, high]).collect();
            ("<f4", widened.as_slice())
        }
    };
    let sizes: Vec<String> = tensor.dims().iter().map(|size| format!("{size},")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", sizes.join(" "));
    let before = MAGIC.len() + 4;
    while !(before + header.len() + 1).is_multiple_of(ALIGN) {
        header.push(' ');
    }
    header.push('\n');
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    // At most 8 dimensions of 10 digits.
    out.write_all(&u16::try_from(header.len()).unwrap_or(u16::MAX).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    out.write_all(bytes)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.npy");
        for (ty, size) in [(TensorType::Fp16, 2), (TensorType::Fp32, 4), (TensorType::I64, 8), (TensorType::U8, 1)] {
            let bytes: Vec<u8> = (0..6 * size).map(|n| n as u8).collect();
            let tensor = Tensor::new(vec![2, 3], ty, bytes).unwrap();
            write(&path, &tensor).unwrap();
            assert!((fs::metadata(&path).unwrap().len() as usize - 6 * size).is_multiple_of(ALIGN));
            let back = read(&path).unwrap();
            assert_eq!((back.dims(), back.ty(), back.bytes()), (tensor.dims(), ty, tensor.bytes()));
        }
        let half = Tensor::new(vec![1], TensorType::Bf16, vec![0x80, 0x3f]).unwrap();
        write(&path, &half).unwrap();
        assert_eq!(read(&path).unwrap().as_f32().unwrap(), [1.0]);
    }

    #[test]
    fn headers_of_numpy_are_understood() {
        for (header, dims) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }  \n", &[2][..]),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }\n", &[2]),
            ("{'shape': (1, 2), 'fortran_order': False, 'descr': '<f4'}", &[1, 2]),
        ] {
            assert_eq!(parse(&file(header, &[0; 8])).unwrap().dims(), dims);
        }
        let single = "{'descr': '<i8', 'fortran_order': False, 'shape': (), }";
        assert_eq!(parse(&file(single, &[0; 8])).unwrap().dims(), [1]);
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        let header = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
        };
        let fine = header("<f4", "False", "(2, 1)");
        parse(&file(&fine, &[0; 8])).unwrap();
        for cut in 0..file(&fine, &[0; 8]).len() {
            assert!(parse(&file(&fine, &[0; 8])[..cut]).is_err(), "{cut}");
        }
        for (header, text) in [
            (header(">f4", "False", "(2,)"), "`>f4`"),
            (header("|O", "False", "(2,)"), "`|O`"),
            (header("<f4", "True", "(2, 1)"), "Fortran"),
            (header("<f4", "False", "(3,)"), "12 bytes"),
            (header("<f4", "False", "(4294967295, 4294967295, 4294967295)"), "larger than any memory"),
            (header("<f4", "False", "(-1,)"), "not one that NumPy writes"),
            (header("<f4", "Maybe", "(2,)"), "not one that NumPy writes"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}".into(), "not one that NumPy writes"),
            ("{'descr': '<f4', 'shape': (2,)}".into(), "not one that NumPy writes"),
            (" ".repeat(5000), "too long"),
        ] {
            let error = parse(&file(&header, &[0; 8])).unwrap_err().to_string();
            assert!(error.contains(text), "{header}: {error}");
        }
    }
}

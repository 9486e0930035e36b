//! Receipts of runs on this machine.
//!
//! # How
//!
//! 1. While a request runs, the tensors that cross the borders of blocks are hashed, and so is what goes in
//!    and comes out. That is all the fast path does for verification.
//! 2. Afterwards this machine's key signs its leg of each batch (here: all blocks) and the receipt.
//! 3. The receipt goes into a file together with the request, so that an auditor needs nothing else but the
//!    package.

use crate::error::{NodeError, file_error};
use crate::execute::{Answer, Output};
use crate::load::Model;
use crate::private_file::PrivateFile;
use crate::progress::Watcher;
use ostrakon_nn::{Tensor, TensorType};
use ostrakon_protocol::{
    Batch, DecodeError, Digest, Document, Leg, Place, Receipt, Request, SignedFloatReceipt, SignedReceipt, SigningKey,
    Step,
};
use std::io::Read;
use std::path::Path;
use std::{fs, io};

/// What was noted of a run.
#[derive(Default)]
pub(crate) struct Borders {
    pub(crate) batches: Vec<BatchBorders>,
}

/// What was noted of a batch.
#[derive(Debug)]
pub(crate) struct BatchBorders {
    texts: u32,
    lengths: Digest,
    pub(crate) steps: Vec<Step>,
}

impl BatchBorders {
    pub(crate) fn new(texts: usize, lengths: &Tensor) -> Self {
        // A batch's texts were counted by a tensor's dimension.
        Self { texts: u32::try_from(texts).unwrap_or(u32::MAX), lengths: tensor_digest(lengths), steps: Vec::new() }
    }
}

/// Every element type with its number in wasi-nn's enumeration.
const ELEMENTS: [(TensorType, u8); 7] = [
    (TensorType::Fp16, 0),
    (TensorType::Fp32, 1),
    (TensorType::Fp64, 2),
    (TensorType::Bf16, 3),
    (TensorType::U8, 4),
    (TensorType::I32, 5),
    (TensorType::I64, 6),
];

/// The number of an element type in wasi-nn's enumeration.
pub(crate) fn element_code(ty: TensorType) -> u8 {
    ELEMENTS.iter().find(|(known, _)| *known == ty).map_or(u8::MAX, |&(_, code)| code)
}

/// The element type of this number.
pub(crate) fn element_type(code: u8) -> Option<TensorType> {
    ELEMENTS.iter().find(|(_, known)| *known == code).map(|&(ty, _)| ty)
}

/// What stands for a tensor on a receipt.
pub(crate) fn tensor_digest(tensor: &Tensor) -> Digest {
    Digest::of_tensor(element_code(tensor.ty()), tensor.dims(), &tensor.bytes())
}

impl Model {
    /// As [`Model::run`], with a receipt signed by `key`.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_with_receipt(
        &mut self,
        texts: &[String],
        most: Option<usize>,
        watch: Watcher<'_>,
        key: &SigningKey,
    ) -> Result<(Answer, SignedReceipt), NodeError> {
        let mut borders = Borders::default();
        let answer = self.run_noting(texts, most, watch, Some(&mut borders))?;
        let request = Request::of_texts(self.digest(), texts.to_vec());
        let signed = Unsigned::new(self, request, borders.batches, &answer.outputs).sign(key);
        Ok((answer, signed))
    }
}

/// What a run of one machine leaves behind, before that machine's key signs it.
#[derive(Debug)]
pub(crate) struct Unsigned {
    request: Request,
    profile: Digest,
    backend: &'static str,
    batches: Vec<BatchBorders>,
    outputs: Vec<Digest>,
}

impl Unsigned {
    pub(crate) fn new(model: &Model, request: Request, batches: Vec<BatchBorders>, outputs: &[Output]) -> Self {
        let outputs = outputs.iter().map(|output| output.digest).collect();
        Self { request, profile: model.profile(), backend: model.backend, batches, outputs }
    }

    /// All legs and the whole are signed by one key.
    pub(crate) fn sign(self, key: &SigningKey) -> SignedReceipt {
        let Self { request: asked, profile, backend, batches, outputs } = self;
        let (request, package) = (asked.digest(), asked.package);
        let leg = |(batch, borders): (u32, BatchBorders)| {
            let BatchBorders { texts, lengths, steps } = borders;
            let place = Place { request, package, profile, batch, lengths };
            Batch { texts, lengths, legs: vec![Leg::sign(key, &place, backend, steps)] }
        };
        let batches = (0..).zip(batches).map(leg).collect();
        let answer = Digest::of_outputs(&outputs);
        let receipt = Receipt { request, package, profile, batches, outputs, answer, swarm: None };
        SignedReceipt::sign(key, receipt, Some(asked))
    }
}

/// Write a document to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write<T: Document>(path: &Path, document: &T) -> Result<(), NodeError> {
    fs::write(path, ostrakon_protocol::encode(document)).map_err(file_error("write", path))
}

/// Write a receipt to a file. With texts in it, it is for this user's eyes only.
///
/// # Errors
/// The file cannot be written.
pub fn write_receipt(path: &Path, signed: &SignedReceipt) -> Result<(), NodeError> {
    // A pipe or a device keeps nothing, and no file may take its place.
    let is_file = fs::metadata(path).map_or(true, |there| there.is_file());
    if signed.request.is_none() || !is_file {
        return write(path, signed);
    }
    PrivateFile::at(path)?.write(|to| to.write_all(&ostrakon_protocol::encode(signed)))?;
    Ok(())
}

/// Read a document from a file.
///
/// # Errors
/// The file cannot be read or is not the one encoding of such a document.
pub fn read<T: Document>(path: &Path) -> Result<T, NodeError> {
    let bytes = read_at_most(path, T::LIMIT).map_err(file_error("read", path))?;
    ostrakon_protocol::decode(&bytes).map_err(|source| NodeError::Document { path: path.display().to_string(), source })
}

/// A receipt of either tier.
#[derive(Debug)]
pub enum AnyReceipt {
    /// Of a package whose bytes are the same everywhere.
    Exact(Box<SignedReceipt>),
    /// Of a package of graphs in floating point.
    Float(Box<SignedFloatReceipt>),
}

/// Read a receipt, whichever it says it is.
///
/// # Errors
/// As [`read`].
pub fn read_any(path: &Path) -> Result<AnyReceipt, NodeError> {
    match read(path) {
        Err(NodeError::Document { source: DecodeError::Kind { found: Some(found), .. }, .. })
            if found == SignedFloatReceipt::KIND =>
        {
            read(path).map(|signed| AnyReceipt::Float(Box::new(signed)))
        }
        exact => exact.map(|signed| AnyReceipt::Exact(Box::new(signed))),
    }
}

/// One byte more than the limit at most: whoever decodes it says that it is too large.
fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn texts_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let request = Request::of_texts(Digest::of_content(b"package"), vec!["secret".into()]);
        let receipt = Receipt {
            request: request.digest(),
            package: request.package,
            profile: request.package,
            batches: vec![],
            outputs: vec![],
            answer: request.package,
            swarm: None,
        };
        let key = SigningKey::from_seed(&[1; 32]);
        let mut signed = SignedReceipt::sign(&key, receipt, None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
        let (apart, whole) = (directory.path().join("apart"), directory.path().join("whole"));
        write_receipt(&apart, &signed).unwrap();
        signed.request = Some(request);
        fs::write(&whole, "what others could read").unwrap();
        fs::set_permissions(&whole, fs::Permissions::from_mode(0o644)).unwrap();
        write_receipt(&whole, &signed).unwrap();
        assert_eq!(mode(&whole), 0);
        assert_eq!(read::<SignedReceipt>(&whole).unwrap(), signed);
        assert_eq!(read::<SignedReceipt>(&apart).unwrap().request, None);
        write_receipt(Path::new("/dev/null"), &signed).unwrap();
    }
}

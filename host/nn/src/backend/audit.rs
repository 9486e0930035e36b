//! The auditor: takes every integer product from a record and checks it instead of computing it.
//!
//! # Why
//!
//! An auditor runs the components as the executor did, but for the products, which are nearly all the
//! work. Those the executor hands over (see [`record`](super::record)), and this backend checks each by
//! Freivalds before the block may use it. What the block then gives is what it gives on any backend.
//!
//! # How
//!
//! 1. [`Auditor::begin`] takes the record of one block. Products are read from it in the order of the calls.
//! 2. The totals of a product are copied, so that nobody changes them after, and then checked: linear layers
//!    with the auditor's own [`Vectors`], made once for each layer; attention with challenges drawn after
//!    the totals were copied, since there both factors are the executor's.
//! 3. On the first row that fails, the row is computed from the weights by the scalar reference, so that
//!    nobody is accused because of vectors that were damaged on the auditor's disk. The product is an error
//!    and the block stops there.
//!    Causal attention is not in the record: the auditor's executor computes it.
//! 4. [`Auditor::finish`] says what was checked and where it stopped.
//!
//! Each check is of one answer, with a known error ([`CheckedProduct::error_bits`]), so there is nothing to
//! prove at start: [`Backend::prove`] does nothing.

use crate::{Backend, BackendError, NnError};
use ostrakon_exact::freivalds::{Challenge, Sides, Vectors, check_scores, check_u8, check_u16, check_weighted};
use ostrakon_exact::simd::{AttentionProducts, Executor, HeadOf, Product, ProductError};
use ostrakon_exact::{Linear, reference};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Its name.
pub const NAME: &str = "audit";

/// Rows that are taken and checked at once.
const ROWS: usize = 16;

/// Where the auditor keeps the secret vectors of each layer.
pub trait LayerVectors: Send + Sync {
    /// The vectors of the layer called `name`, made now or kept from before. Only their shape is checked.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn vectors(&self, name: &str, layer: &Linear) -> Result<Arc<Vectors>, String>;
}

/// A record: a buffer, a view of a memory map.
pub type Evidence = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// One product of the record, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedProduct {
    /// The name of the layer, or `attention 1 of the block, scores, sequence 0, head 3` (`weighted` for the
    /// second product), where attention operations count from 1 and the others from 0.
    pub operation: String,
    /// The side of the claimed totals, row by row.
    pub left: Vec<[u64; 2]>,
    /// The side of codes and weights, row by row.
    pub right: Vec<[u64; 2]>,
    /// A wrong row passes with a probability of at most 2 to minus this.
    pub error_bits: u32,
    /// The first wrong element of the first row whose sides differ. None where all are equal, and where the
    /// row is right after all: then the auditor's own vectors are damaged.
    pub wrong: Option<WrongElement>,
    /// Multiply-adds of 8 bits that computing it takes.
    pub multiply_adds: u64,
    /// Multiply-adds of 64 bits that checking it took.
    pub checking: u64,
}

impl CheckedProduct {
    /// Whether all sides are equal.
    pub fn passed(&self) -> bool {
        self.left == self.right
    }
}

/// An element that is wrong beyond doubt: computed by the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongElement {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// What the record says.
    pub claimed: i64,
    /// What is right.
    pub exact: i64,
}

/// What an audit of one record found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finished {
    /// The products that were checked, in order; only the last can have failed.
    pub products: Vec<CheckedProduct>,
    /// Bytes of the record that no product asked for.
    pub left_over: usize,
    /// The operation whose totals the record did not hold.
    pub ended_early: Option<String>,
}

/// Checks instead of computing, one record at a time. Cloning shares the record.
#[derive(Clone)]
pub struct Auditor(Arc<Inner>);

struct Inner {
    executor: Arc<Executor>,
    vectors: Arc<dyn LayerVectors>,
    audit: Mutex<Option<Audit>>,
}

/// An audit under way.
struct Audit {
    evidence: Evidence,
    position: usize,
    /// Attention operations so far.
    attentions: usize,
    stopped: bool,
    /// Where fresh challenges come from.
    random: Option<blake3::OutputReader>,
    finished: Finished,
}

impl Auditor {
    /// An auditor with these vectors; `executor` is the one of its host.
    pub fn new(executor: Arc<Executor>, vectors: Arc<dyn LayerVectors>) -> Self {
        Self(Arc::new(Inner { executor, vectors, audit: Mutex::new(None) }))
    }

    /// Begin with the record of a block; an audit that was not finished is dropped.
    pub fn begin(&self, evidence: Evidence) {
        *self.0.lock() = Some(Audit {
            evidence,
            position: 0,
            attentions: 0,
            stopped: false,
            random: None,
            finished: Finished::default(),
        });
    }

    /// What was found since [`begin`](Self::begin); nothing without one.
    pub fn finish(&self) -> Finished {
        let Some(audit) = self.0.lock().take() else { return Finished::default() };
        let bytes = (*audit.evidence).as_ref().len();
        Finished { left_over: bytes.saturating_sub(audit.position), ..audit.finished }
    }
}

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auditor")
    }
}

impl Backend for Auditor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        let no_vectors = |why: String| NnError::Runtime(format!("no vectors to check layer `{name}` with: {why}"));
        let vectors = self.0.vectors.vectors(name, layer).map_err(no_vectors)?;
        if (vectors.outputs(), vectors.inputs()) != (layer.outputs, layer.inputs) {
            return Err(no_vectors("they are of another shape".to_owned()));
        }
        Ok(Box::new(CheckedLayer {
            name: name.to_owned(),
            layer: Arc::clone(layer),
            vectors,
            inner: Arc::clone(&self.0),
        }))
    }

    fn attention(&self) -> Option<&dyn AttentionProducts> {
        Some(&*self.0)
    }

    /// Nothing to prove: it cannot answer for test weights, and checks every answer it gives.
    fn prove(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Option<Audit>> {
        // Whatever a panic left undone, a product that was not checked is not among the products.
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a product takes: to compute, and to check.
#[derive(Clone, Copy)]
struct Work {
    multiply_adds: u64,
    checking: u64,
}

impl Work {
    /// One head's scores or weighted values: operands of 16 bits count as two limbs each.
    fn attention(rows: usize, d: usize) -> Self {
        let [rows, d] = [rows, d].map(|n| n as u64);
        Self { multiply_adds: 4 * rows * rows * d, checking: 2 * rows * (rows + 2 * d) }
    }
}

struct CheckedLayer {
    name: String,
    layer: Arc<Linear>,
    vectors: Arc<Vectors>,
    inner: Arc<Inner>,
}

impl CheckedLayer {
    fn work(&self, rows: usize, limbs: u64) -> Work {
        let [rows, outputs, inputs] = [rows, self.layer.outputs, self.layer.inputs].map(|n| n as u64);
        Work { multiply_adds: rows * outputs * inputs * limbs, checking: 2 * rows * (outputs + inputs) }
    }

    /// Rows of codes with their totals, a few at a time, so that totals are still in cache when they are checked.
    fn parts<'a, C, T>(&self, codes: &'a [C], totals: &'a mut [T]) -> impl Iterator<Item = (&'a [C], &'a mut [T])> {
        codes.chunks(ROWS * self.layer.inputs).zip(totals.chunks_mut(ROWS * self.layer.outputs))
    }

    /// The exact totals of a row.
    fn exact<'a>(&'a self, codes: &'a [u16]) -> impl Iterator<Item = i64> + 'a {
        let weights = self.layer.weight.as_slice().chunks_exact(self.layer.inputs);
        weights.map(move |weights| reference::accumulate(codes, weights))
    }
}

impl Product for CheckedLayer {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        let mut audit = self.inner.lock();
        let audit = Audit::running(&mut audit)?;
        let mut sides = Sides::with_rows(rows);
        for (codes, totals) in self.parts(codes, totals) {
            audit.take(|| self.name.clone(), totals, i32::from_le_bytes)?;
            let rows = totals.len() / self.layer.outputs;
            check_u8(&self.inner.executor, &self.vectors, codes, rows, totals, &mut sides)?;
        }
        audit.judge(self.name.clone(), self.work(rows, 1), sides, |row| {
            let codes: Vec<u16> = nth(codes, row, self.layer.inputs).iter().map(|&code| code.into()).collect();
            let claimed = nth(totals, row, self.layer.outputs).iter().map(|&total| total.into());
            first_wrong(row, claimed, self.exact(&codes))
        })
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        let mut audit = self.inner.lock();
        let audit = Audit::running(&mut audit)?;
        let mut sides = Sides::with_rows(rows);
        for (codes, totals) in self.parts(codes, totals) {
            audit.take(|| self.name.clone(), totals, i64::from_le_bytes)?;
            let rows = totals.len() / self.layer.outputs;
            check_u16(&self.inner.executor, &self.vectors, codes, rows, totals, &mut sides)?;
        }
        audit.judge(self.name.clone(), self.work(rows, 2), sides, |row| {
            let claimed = nth(totals, row, self.layer.outputs).iter().copied();
            first_wrong(row, claimed, self.exact(nth(codes, row, self.layer.inputs)))
        })
    }
}

impl AttentionProducts for Inner {
    fn scores(
        &self,
        at: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError> {
        let mut audit = self.lock();
        let audit = Audit::running(&mut audit)?;
        if at == (HeadOf { sequence: 0, head: 0 }) {
            audit.attentions += 1;
        }
        let operation = audit.attention(at, "scores");
        audit.take(|| operation.clone(), totals, i32::from_le_bytes)?;
        let challenge = audit.challenge(rows)?;
        let sides = check_scores(&self.executor, &challenge, queries, keys, d, totals)?;
        audit.judge(operation, Work::attention(rows, d), sides, |row| {
            let query = nth(queries, row, d);
            let claimed = nth(totals, row, rows).iter().map(|&total| total.into());
            first_wrong(row, claimed, keys.chunks_exact(d.max(1)).map(|key| dot(query.iter().zip(key))))
        })
    }

    fn weighted(
        &self,
        at: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError> {
        let mut audit = self.lock();
        let audit = Audit::running(&mut audit)?;
        let operation = audit.attention(at, "weighted");
        audit.take(|| operation.clone(), totals, i64::from_le_bytes)?;
        let challenge = audit.challenge(d)?;
        let sides = check_weighted(&self.executor, &challenge, weights, values, rows, totals)?;
        audit.judge(operation, Work::attention(rows, d), sides, |row| {
            let weights = nth(weights, row, rows);
            let claimed = nth(totals, row, d).iter().copied();
            let column = |c: usize| values.iter().skip(c).step_by(d.max(1));
            first_wrong(row, claimed, (0..d).map(|c| dot(weights.iter().zip(column(c)))))
        })
    }
}

impl Audit {
    fn running(audit: &mut Option<Self>) -> Result<&mut Self, ProductError> {
        match audit {
            Some(audit) if !audit.stopped => Ok(audit),
            Some(_) => Err(ProductError::Unavailable("the audit has stopped".to_owned())),
            None => Err(ProductError::Unavailable("no record was given to the audit".to_owned())),
        }
    }

    fn attention(&self, at: HeadOf, product: &str) -> String {
        format!("attention {} of the block, {product}, sequence {}, head {}", self.attentions, at.sequence, at.head)
    }

    /// The next totals of the record.
    fn take<const N: usize, T>(
        &mut self,
        operation: impl FnOnce() -> String,
        totals: &mut [T],
        read: impl Fn([u8; N]) -> T,
    ) -> Result<(), ProductError> {
        let bytes = (*self.evidence).as_ref();
        let wanted = totals.len().saturating_mul(N);
        let end = self.position.saturating_add(wanted);
        let Some(bytes) = bytes.get(self.position..end) else {
            let operation = operation();
            let left = bytes.len().saturating_sub(self.position);
            let text = format!("the record ends at {operation}: {wanted} bytes are needed, {left} are left");
            self.finished.ended_early = Some(operation);
            self.stopped = true;
            return Err(ProductError::Unavailable(text));
        };
        for (total, &bytes) in totals.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *total = read(bytes);
        }
        self.position = end;
        Ok(())
    }

    /// A challenge that nobody could know before.
    fn challenge(&mut self, len: usize) -> Result<Challenge, ProductError> {
        let random = match &mut self.random {
            Some(random) => random,
            none => {
                let mut seed = [0u8; 32];
                getrandom::fill(&mut seed)
                    .map_err(|error| ProductError::Unavailable(format!("no randomness for a challenge: {error}")))?;
                none.insert(blake3::Hasher::new_keyed(&seed).finalize_xof())
            }
        };
        Ok(Challenge::random(len, |bytes| random.fill(bytes)))
    }

    /// Keep the sides; if a row's differ, stop, and find with `exact` what is wrong in it.
    fn judge(
        &mut self,
        operation: String,
        work: Work,
        sides: Sides,
        exact: impl FnOnce(usize) -> Option<WrongElement>,
    ) -> Result<(), ProductError> {
        let failed = sides.first_difference();
        let wrong = failed.and_then(exact);
        let result = match (failed, wrong) {
            (None, _) => Ok(()),
            (Some(_), Some(WrongElement { row, column, claimed, exact })) => Err(ProductError::Wrong(format!(
                "{operation}: row {row}, column {column} is {claimed} in the record, exactly {exact} is right"
            ))),
            (Some(row), None) => Err(ProductError::Unavailable(format!(
                "{operation}: row {row} fails the check but is right; the vectors kept for it are damaged"
            ))),
        };
        self.stopped = result.is_err();
        let Sides { left, right, error_bits } = sides;
        let Work { multiply_adds, checking } = work;
        let product = CheckedProduct { operation, left, right, error_bits, wrong, multiply_adds, checking };
        self.finished.products.push(product);
        result
    }
}

/// Row `row` of rows of `width`.
fn nth<T>(all: &[T], row: usize, width: usize) -> &[T] {
    all.chunks_exact(width.max(1)).nth(row).unwrap_or(&[])
}

fn dot<'a>(pairs: impl Iterator<Item = (&'a i16, &'a i16)>) -> i64 {
    pairs.map(|(&a, &b)| i64::from(a) * i64::from(b)).sum()
}

fn first_wrong(
    row: usize,
    claimed: impl Iterator<Item = i64>,
    exact: impl Iterator<Item = i64>,
) -> Option<WrongElement> {
    let mut columns = claimed.zip(exact).enumerate();
    columns.find_map(|(column, (claimed, exact))| {
        (claimed != exact).then_some(WrongElement { row, column, claimed, exact })
    })
}

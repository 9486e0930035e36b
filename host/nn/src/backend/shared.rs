//! The integer product on servers that must not learn what it is of.
//!
//! # Why
//!
//! A user's words should not leave the machine in any form that somebody could read, and the product of a linear layer
//! should still be computed elsewhere, to the same bytes. So codes are split into shares modulo a prime that are
//! uniformly random to whoever has not all of them. To a model block nothing changes.
//!
//! # How
//!
//! 1. A layer is cut into parts whose totals are known from their value modulo p (`ostrakon_exact::field::Parts`), and
//!    gets secret vectors to check answers with.
//! 2. Ahead of time, servers with seeds multiply their masks; what they give is checked like everything else ([`Servers`]
//!    does that with [`SharedLayer::check`]) and waits as [`Masked`]. Each row of a mask is used once: it is taken out.
//! 3. A product takes as many rows of masks as it has, sends the codes less the masks to the one server that has no seed, checks
//!    what comes back, adds the products of the masks, and lifts the sums to integers.
//! 4. A server that does not answer, or wrongly, is named to [`Servers`], and it is done again **with fresh masks** and with
//!    another server: a mask that one server has seen the codes with is never shown to a second one.
//! 5. After a wrong answer, also one of a mask, the vectors of the layer are drawn anew: whoever sent it may have learnt
//!    something about them.
//!
//! Splitting, checking and combining are a component's business: [`Shares`].
//!
//! No answer is used before it was checked, so there is nothing to prove at start.

use super::{Backend, BackendError};
use crate::spares::Spares;
use crate::{NnError, Tensor};
use ostrakon_exact::field::{Field, Parts, Vectors, lift, lift_u8, pack, unpack};
use ostrakon_exact::simd::{Executor, Product, ProductError};
use ostrakon_exact::{Activation, Linear, ShapeError};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Its name.
pub const NAME: &str = "shared";

/// How often a product is tried before it is given up. Servers that are waited for are given up sooner.
const TRIES: usize = 256;
/// Wrong answers to one product before it is given up.
const WRONG: usize = 8;

/// Splits, checks and combines: a component of the world `secret-sharing`.
pub trait Shares: Send + Sync {
    /// The codes less the mask.
    ///
    /// # Errors
    /// The component does not do it.
    fn split(&self, field: Field, codes: &Tensor, mask: &Tensor) -> Result<Tensor, NnError>;

    /// The first row of `product` that is not that row of `share` times the weights.
    ///
    /// # Errors
    /// The component does not say.
    fn check(
        &self,
        field: Field,
        share: &Tensor,
        product: &Tensor,
        challenge: &Tensor,
        projection: &Tensor,
    ) -> Result<Option<u32>, NnError>;

    /// The sum of the products of all shares.
    ///
    /// # Errors
    /// The component does not do it.
    fn combine(&self, field: Field, products: &[&Tensor]) -> Result<Tensor, NnError>;
}

/// Rows of masks, never used before, with their products, which were checked.
#[derive(Debug)]
pub struct Masked {
    /// The sum of the masks: I32 [R, K].
    pub mask: Tensor,
    /// One for each server with a seed: I32 [R, parts * N].
    pub products: Vec<Tensor>,
}

/// Why a server has no answer, or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// This try is lost, the next may do.
    #[error("{0}")]
    Lost(String),
    /// There is no use in trying again.
    #[error("{0}")]
    Hopeless(String),
}

/// A wrong answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The layer.
    pub layer: String,
    /// The first wrong row.
    pub row: u32,
}

/// The servers.
pub trait Servers: Send + Sync {
    /// Whatever says who answered.
    type Who: fmt::Display;

    /// A layer that products will be asked of. Called once for each, in the order in which the model opens them.
    fn register(&self, layer: &Arc<SharedLayer>);

    /// This many rows of masks for a layer, waiting for them if they are not there yet.
    ///
    /// # Errors
    /// They cannot be had.
    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError>;

    /// Have the server without a seed multiply a share [R, K]: its answer [R, parts * N], and who gave it.
    ///
    /// # Errors
    /// It does not answer; another one is there for the next try, or none.
    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, Self::Who), SharedError>;

    /// This server's answer is wrong: it must not be asked again.
    fn wrong(&self, who: &Self::Who, wrong: &Wrong);
}

/// A layer as its owner needs it: the cut, and secret vectors.
pub struct SharedLayer {
    name: String,
    stream: u32,
    layer: Arc<Linear>,
    parts: Parts,
    executor: Arc<Executor>,
    spares: Arc<Spares>,
    secret: RwLock<Arc<Secret>>,
}

/// Both vectors of a check as tensors.
struct Secret {
    challenge: Tensor,
    projection: Tensor,
}

impl SharedLayer {
    fn new(
        executor: &Arc<Executor>,
        spares: &Arc<Spares>,
        name: &str,
        stream: u32,
        layer: &Arc<Linear>,
    ) -> Result<Self, NnError> {
        let parts = Parts::of(layer);
        let secret = RwLock::new(Arc::new(Secret::draw(executor, layer, &parts)?));
        let (layer, executor, spares) = (Arc::clone(layer), Arc::clone(executor), Arc::clone(spares));
        Ok(Self { name: name.to_owned(), stream, layer, parts, executor, spares, secret })
    }

    /// Its full name, such as `blocks.0.attention.qkv`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number among the layers: the stream of its masks.
    pub const fn stream(&self) -> u32 {
        self.stream
    }

    /// The field of its shares and products.
    pub const fn field(&self) -> Field {
        self.parts.field()
    }

    /// Elements of a row that is sent: K.
    pub fn inputs(&self) -> usize {
        self.layer.inputs
    }

    /// Elements of a row that comes back: parts * N.
    pub fn columns(&self) -> usize {
        self.parts.columns()
    }

    /// Rows of a share as they are sent.
    ///
    /// # Errors
    /// They are no rows of this layer.
    pub fn pack(&self, share: &Tensor) -> Result<Vec<u8>, NnError> {
        let elements: &[u32] = bytemuck::cast_slice(share.as_i32()?);
        let mut packed = vec![0; elements.len().saturating_mul(self.field().bytes())];
        pack(&self.executor, self.field(), elements, self.inputs(), &mut packed)?;
        Ok(packed)
    }

    /// The product of so many rows, as it came.
    ///
    /// # Errors
    /// Bytes of another number, numbers that are not elements.
    pub fn unpack(&self, rows: usize, packed: &[u8]) -> Result<Tensor, NnError> {
        Tensor::written_i32(&self.spares, vec![columns(rows)?, columns(self.columns())?], |elements| {
            let elements = bytemuck::cast_slice_mut(elements);
            Ok(unpack(&self.executor, self.field(), packed, self.columns(), elements)?)
        })
    }

    /// The first row of `product` that is wrong. If one is, the vectors have been drawn anew.
    ///
    /// # Errors
    /// The component does not say; no vectors can be drawn.
    pub fn check(&self, shares: &dyn Shares, share: &Tensor, product: &Tensor) -> Result<Option<u32>, NnError> {
        let secret = Arc::clone(&self.secret.read().unwrap_or_else(PoisonError::into_inner));
        let wrong = shares.check(self.field(), share, product, &secret.challenge, &secret.projection)?;
        if wrong.is_some() {
            let drawn = Arc::new(Secret::draw(&self.executor, &self.layer, &self.parts)?);
            *self.secret.write().unwrap_or_else(PoisonError::into_inner) = drawn;
        }
        Ok(wrong)
    }
}

impl Secret {
    fn draw(executor: &Executor, layer: &Linear, parts: &Parts) -> Result<Self, NnError> {
        let mut failed = None;
        let vectors = Vectors::random(executor, layer, parts, |bytes| {
            if let Err(error) = getrandom::fill(bytes) {
                failed = Some(error);
            }
        })?;
        if let Some(error) = failed {
            return Err(NnError::Runtime(format!("no randomness for a check: {error}")));
        }
        let tensor = |[first, second]: [&[u32]; 2]| {
            let width = columns(first.len())?;
            Tensor::from_i32(vec![2, width], first.iter().chain(second).map(|&element| element as i32).collect())
        };
        Ok(Self { challenge: tensor(vectors.challenge())?, projection: tensor(vectors.projection())? })
    }
}

impl fmt::Debug for SharedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedLayer({}, {} to {})", self.name, self.inputs(), self.columns())
    }
}

/// Products on servers that each hold a share.
pub struct SharedBackend<S> {
    executor: Arc<Executor>,
    shares: Arc<dyn Shares>,
    servers: Arc<S>,
    spares: Arc<Spares>,
    count: Mutex<u32>,
}

impl<S: Servers> SharedBackend<S> {
    /// For layers that `executor` runs. Its threads do not linger any more: between two operations there is mostly a round
    /// trip, and a thread that spins keeps those that send and receive from their core.
    pub fn new(executor: Arc<Executor>, shares: Arc<dyn Shares>, servers: Arc<S>) -> Self {
        executor.never_linger();
        Self { executor, shares, servers, spares: Arc::default(), count: Mutex::default() }
    }
}

impl<S: Servers + 'static> Backend for SharedBackend<S> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self, name: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::new(SharedLayer::new(&self.executor, &self.spares, name, *count, layer)?);
        *count = count.checked_add(1).ok_or_else(|| NnError::Runtime("more layers than there are streams".into()))?;
        self.servers.register(&shared);
        Ok(Box::new(SharedProduct {
            layer: shared,
            executor: Arc::clone(&self.executor),
            shares: Arc::clone(&self.shares),
            servers: Arc::clone(&self.servers),
        }))
    }

    /// Nothing to prove: it checks every answer before it uses it.
    fn prove(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

struct SharedProduct<S> {
    layer: Arc<SharedLayer>,
    executor: Arc<Executor>,
    shares: Arc<dyn Shares>,
    servers: Arc<S>,
}

impl<S: Servers> SharedProduct<S> {
    /// The sums of codes modulo p, lifted by `lift`.
    fn totals<C: Copy + Into<i32>>(
        &self,
        codes: &[C],
        rows: usize,
        lift: impl FnOnce(&[u32]) -> Result<(), ShapeError>,
    ) -> Result<(), ProductError> {
        if rows == 0 {
            return Ok(());
        }
        let inputs = self.layer.inputs();
        if rows.checked_mul(inputs) != Some(codes.len()) {
            return Err(ShapeError(format!("{} codes are not {rows} rows of {inputs}", codes.len())).into());
        }
        let dims = |width| Ok(vec![columns(rows)?, columns(width)?]);
        let write = |elements: &mut [i32]| {
            elements.iter_mut().zip(codes).for_each(|(element, &code)| *element = code.into());
            Ok(())
        };
        let codes = dims(inputs).and_then(|dims| Tensor::written_i32(&self.layer.spares, dims, write));
        let sum = self.product(&codes.map_err(unavailable)?, rows)?;
        Ok(lift(bytemuck::cast_slice(sum.as_i32().map_err(unavailable)?))?)
    }

    /// The product of the codes modulo p.
    fn product(&self, codes: &Tensor, rows: usize) -> Result<Tensor, ProductError> {
        let (mut reason, mut wrong_answers) = (String::new(), 0);
        for _ in 0..TRIES {
            let tried = self.servers.masked(&self.layer, rows).and_then(|masked| {
                let share = self.shares.split(self.layer.field(), codes, &masked.mask).map_err(hopeless)?;
                let (product, who) = self.servers.multiply(&self.layer, &share)?;
                if let Some(row) = self.layer.check(&*self.shares, &share, &product).map_err(hopeless)? {
                    let wrong = Wrong { layer: self.layer.name.clone(), row };
                    self.servers.wrong(&who, &wrong);
                    wrong_answers += 1;
                    return Err(SharedError::Lost(format!(
                        "{who} answered row {row} of layer `{}` wrongly",
                        wrong.layer
                    )));
                }
                let products: Vec<&Tensor> = masked.products.iter().chain([&product]).collect();
                self.shares.combine(self.layer.field(), &products).map_err(hopeless)
            });
            match tried {
                Ok(sum) => return Ok(sum),
                Err(SharedError::Lost(why)) if wrong_answers < WRONG => reason = why,
                Err(SharedError::Lost(why)) => {
                    return Err(ProductError::Unavailable(format!("{WRONG} answers were wrong; the last time, {why}")));
                }
                Err(SharedError::Hopeless(why)) => return Err(ProductError::Unavailable(why)),
            }
        }
        Err(ProductError::Unavailable(format!("it was tried {TRIES} times; the last time, {reason}")))
    }
}

impl<S: Servers> Product for SharedProduct<S> {
    fn product_u8(&self, codes: &[u8], rows: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        let (executor, field, least) = (&self.executor, self.layer.field(), self.layer.parts.least());
        self.totals(codes, rows, |sum| lift_u8(executor, field, sum, least, self.layer.layer.outputs, totals))
    }

    fn product_u16(&self, codes: &[u16], rows: usize, totals: &mut [i64]) -> Result<(), ProductError> {
        debug_assert_eq!(self.layer.layer.activation, Activation::U16);
        let (executor, field, least) = (&self.executor, self.layer.field(), self.layer.parts.least());
        self.totals(codes, rows, |sum| lift(executor, field, sum, least, self.layer.layer.outputs, totals))
    }
}

fn unavailable(error: NnError) -> ProductError {
    ProductError::Unavailable(error.to_string())
}

fn columns(count: usize) -> Result<u32, NnError> {
    u32::try_from(count).map_err(|_| NnError::TooLarge(format!("{count} is more than a dimension holds")))
}

fn hopeless(error: NnError) -> SharedError {
    SharedError::Hopeless(error.to_string())
}

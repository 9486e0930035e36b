//! Typed calls of `ostrakon:plugin/sharing`: splitting activations among servers, checking and combining what comes back.
//!
//! # Why
//!
//! How a secret is split must be right wherever it is done, so it is a component that does it, from arguments alone. The
//! tensors stay in host memory: the component sees handles, and two elements a row of a check.
//!
//! # How
//!
//! 1. [`crate::Runtime::admit`] a component to [`crate::World::SecretSharing`], then [`crate::Plugin::sharing`].
//! 2. [`Sharing::mask`] once for each place of the seeds, [`Sharing::split`], then [`Sharing::check`] of every answer before
//!    anything is made of it, then [`Sharing::combine`]. What each does is written in `wit/plugin.wit`.
//! 3. A result's shape is compared with what it has to be: the component is foreign code too.

use crate::error::{CallError, Failure, Trap, bounded};
use crate::guest::{self, Failed, Guest};
use crate::imports::field::Prime;
use crate::state::{State, TensorEntry};
use ostrakon_nn::field::Field;
use ostrakon_nn::{Tensor, TensorType};
use std::fmt;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, ComponentType, Instance, Lift, Lower, Resource, TypedFunc,
};

/// Rows of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The field of the layer.
    pub field: Field,
    /// Which layer.
    pub stream: u32,
    /// The first row.
    pub first: u64,
    /// How many.
    pub rows: u32,
    /// Elements of a row.
    pub columns: u32,
}

/// `sharing.place`.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct GuestPlace {
    p: Prime,
    stream: u32,
    first: u64,
    rows: u32,
    columns: u32,
}

impl From<Place> for GuestPlace {
    fn from(Place { field, stream, first, rows, columns }: Place) -> Self {
        Self { p: field.into(), stream, first, rows, columns }
    }
}

/// Servers' secrets, to be expanded to masks.
pub type Seed = [u8; ostrakon_nn::field::SEED_BYTES];

/// `sharing.failure`.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
enum SharingFailure {
    #[component(name = "bad-input")]
    BadInput(String),
    #[component(name = "operation")]
    Operation(String),
}

impl From<SharingFailure> for Failed {
    fn from(failure: SharingFailure) -> Self {
        Self::Guest(match failure {
            SharingFailure::BadInput(text) => Failure::BadInput(bounded(&text)),
            SharingFailure::Operation(text) => Failure::Operation(bounded(&text)),
        })
    }
}

type OrFailure<T> = Result<T, SharingFailure>;
type Handle = Resource<TensorEntry>;
type Masking = TypedFunc<(Vec<Vec<u8>>, GuestPlace), (OrFailure<Handle>,)>;
type Checking = TypedFunc<(Prime, Handle, Handle, Handle, Handle), (OrFailure<Option<u32>>,)>;
type Pair = TypedFunc<(Prime, Handle, Handle), (OrFailure<Handle>,)>;

/// Where its functions are.
#[derive(Clone, Copy)]
pub(crate) struct SharingExports {
    pub(crate) mask: ComponentExportIndex,
    pub(crate) split: ComponentExportIndex,
    pub(crate) check: ComponentExportIndex,
    pub(crate) combine: ComponentExportIndex,
}

/// A component that splits activations, at work.
pub struct Sharing {
    guest: Guest<State>,
    mask: Masking,
    split: Pair,
    check: Checking,
    combine: Pair,
}

impl Sharing {
    pub(crate) fn new(
        mut guest: Guest<State>,
        instance: &Instance,
        exports: SharingExports,
    ) -> Result<Self, CallError> {
        fn typed<P, R>(
            guest: &mut Guest<State>,
            instance: &Instance,
            index: ComponentExportIndex,
        ) -> Result<TypedFunc<P, R>, CallError>
        where
            P: ComponentNamedList + Lower,
            R: ComponentNamedList + Lift,
        {
            instance.get_typed_func(&mut guest.store, index).map_err(|error| guest::engine(&error))
        }
        Ok(Self {
            mask: typed(&mut guest, instance, exports.mask)?,
            split: typed(&mut guest, instance, exports.split)?,
            check: typed(&mut guest, instance, exports.check)?,
            combine: typed(&mut guest, instance, exports.combine)?,
            guest,
        })
    }

    /// What the servers with these seeds have at this place, summed: I32 [rows, columns].
    ///
    /// # Errors
    /// The component refuses, traps or is stopped; the result is none.
    pub fn mask(&mut self, seeds: &[Seed], at: Place) -> Result<Tensor, CallError> {
        self.guest.ready()?;
        let (mask, seeds) = (self.mask, seeds.iter().map(|seed| seed.to_vec()).collect::<Vec<_>>());
        let (mask, _) = self.guest.call(|mut store| {
            let (mask,) = mask.call(&mut store, (seeds, at.into()))?;
            taken(&mut store, mask?, &[at.rows, at.columns])
        })?;
        Ok(mask)
    }

    /// The share of the server without a seed.
    ///
    /// # Errors
    /// As [`Sharing::mask`].
    pub fn split(&mut self, field: Field, codes: &Tensor, mask: &Tensor) -> Result<Tensor, CallError> {
        let split = self.split;
        self.pair(split, field, codes, mask)
    }

    /// The first row of `product` that is not the product of that row of `share` with the weights; `None` if all are.
    ///
    /// # Errors
    /// As [`Sharing::mask`].
    pub fn check(
        &mut self,
        field: Field,
        share: &Tensor,
        product: &Tensor,
        challenge: &Tensor,
        projection: &Tensor,
    ) -> Result<Option<u32>, CallError> {
        self.guest.ready()?;
        let check = self.check;
        let (wrong, _) = self.guest.call(|mut store| {
            lend(&mut store, &[share, product, challenge, projection], |store, lent| {
                let [share, product, challenge, projection] = exactly(lent)?;
                Ok(check.call(store, (field.into(), share, product, challenge, projection))?.0?)
            })
        })?;
        Ok(wrong)
    }

    /// The sum of the products of two shares.
    ///
    /// # Errors
    /// As [`Sharing::mask`].
    pub fn combine(&mut self, field: Field, a: &Tensor, b: &Tensor) -> Result<Tensor, CallError> {
        let combine = self.combine;
        self.pair(combine, field, a, b)
    }

    /// A function of two tensors that gives one of the same shape.
    fn pair(&mut self, function: Pair, field: Field, a: &Tensor, b: &Tensor) -> Result<Tensor, CallError> {
        self.guest.ready()?;
        let (result, _) = self.guest.call(|mut store| {
            lend(&mut store, &[a, b], |store, lent| {
                let [first, second] = exactly(lent)?;
                let (result,) = function.call(&mut *store, (field.into(), first, second))?;
                taken(store, result?, a.dims())
            })
        })?;
        Ok(result)
    }

    /// Whether a trap or a fault has ended it.
    pub fn is_spent(&self) -> bool {
        self.guest.is_spent()
    }
}

fn exactly<const N: usize>(handles: Vec<Handle>) -> Result<[Handle; N], Failed> {
    handles.try_into().map_err(|_| Failed::Engine(wasmtime::Error::msg("another number of tensors was lent")))
}

/// Lend tensors for a call.
fn lend<T>(
    store: &mut StoreContextMut<'_, State>,
    tensors: &[&Tensor],
    call: impl FnOnce(&mut StoreContextMut<'_, State>, Vec<Handle>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let mut kept = Vec::with_capacity(tensors.len());
    let mut failed = None;
    for &tensor in tensors {
        let state = store.data_mut();
        match tensor.clone().charged_to(&state.meter).and_then(|tensor| state.keep(tensor)) {
            Ok(handle) => kept.push(handle),
            Err(error) => {
                failed = Some(Failed::Input(error));
                break;
            }
        }
    }
    let result = match failed {
        Some(failed) => Err(failed),
        None => call(store, kept.iter().map(|handle| Resource::new_borrow(handle.rep())).collect()),
    };
    for handle in kept {
        store.data_mut().take(handle)?;
    }
    result
}

/// A result: elements of this shape.
fn taken(store: &mut StoreContextMut<'_, State>, handle: Handle, dims: &[u32]) -> Result<Tensor, Failed> {
    let tensor = store.data_mut().take(handle)?.tensor.uncharged();
    if tensor.ty() == TensorType::I32 && tensor.dims() == dims {
        return Ok(tensor);
    }
    let text = format!("the component gave {tensor:?} where I32 {dims:?} is due");
    Err(Failed::Output(Trap::Refused(text)))
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_spent() { "Sharing(spent)" } else { "Sharing" })
    }
}

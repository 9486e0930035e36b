//! `ostrakon:plugin/exact`: the operations without weights.

use crate::admission::interface::EXACT;
use crate::cost;
use crate::state::{State, TensorEntry, charge, stop, visible};
use ostrakon_nn::{NnError, Tensor};
use wasmtime::component::{ComponentType, Linker, Lower, Resource};
use wasmtime::{Result, StoreContextMut};

/// `exact.refusal`.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(super) enum Refusal {
    #[component(name = "invalid-argument")]
    InvalidArgument(String),
    #[component(name = "too-large")]
    TooLarge(String),
}

pub(super) type Store<'a> = StoreContextMut<'a, State>;
pub(super) type Handle = Resource<TensorEntry>;
pub(super) type Answer = (std::result::Result<Handle, Refusal>,);

pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    let mut interface = linker.instance(EXACT)?;
    interface.func_wrap("alias", |mut store: Store<'_>, (x,): (Handle,)| {
        charge(&mut store, cost::call())?;
        let tensor = store.data().tensor(&x)?;
        Ok((store.data_mut().keep(tensor).map_err(|error| stop(&error))?,))
    })?;
    interface.func_wrap("add", |mut store: Store<'_>, (a, b): (Handle, Handle)| -> Result<Answer> {
        let (a, b) = (store.data().tensor(&a)?, store.data().tensor(&b)?);
        charge(&mut store, cost::add(&a))?;
        answer(&mut store, |state| state.host.add(&state.meter, &a, &b))
    })?;
    interface.func_wrap("gelu", |mut store: Store<'_>, (x,): (Handle,)| -> Result<Answer> {
        let x = store.data().tensor(&x)?;
        charge(&mut store, cost::gelu(&x))?;
        answer(&mut store, |state| state.host.gelu(&state.meter, &x))
    })?;
    interface.func_wrap(
        "attention",
        |mut store: Store<'_>, (qkv, lengths, heads): (Handle, Handle, u32)| -> Result<Answer> {
            let (qkv, lengths) = (store.data().tensor(&qkv)?, store.data().tensor(&lengths)?);
            charge(&mut store, cost::attention(&qkv, &lengths, heads))?;
            answer(&mut store, |state| state.host.attention(&state.meter, &qkv, &lengths, heads))
        },
    )?;
    interface.func_wrap("swiglu", |mut store: Store<'_>, (x,): (Handle,)| -> Result<Answer> {
        let x = store.data().tensor(&x)?;
        charge(&mut store, cost::swiglu(&x))?;
        answer(&mut store, |state| state.host.swiglu(&state.meter, &x))
    })?;
    interface.func_wrap(
        "causal-attention",
        |mut store: Store<'_>, (qkv, lengths, heads, kv): (Handle, Handle, u32, u32)| -> Result<Answer> {
            let (qkv, lengths) = (store.data().tensor(&qkv)?, store.data().tensor(&lengths)?);
            charge(&mut store, cost::causal_attention(&qkv, &lengths, heads, kv))?;
            // Out of the state while the state is used.
            let mut past = store.data_mut().past.take();
            let attended = answer(&mut store, |state| {
                state.host.causal_attention(&state.meter, past.as_mut(), &qkv, &lengths, heads, kv)
            });
            store.data_mut().past = past;
            attended
        },
    )?;
    interface.func_wrap("mean-pool", |mut store: Store<'_>, (x, lengths): (Handle, Handle)| -> Result<Answer> {
        let (x, lengths) = (store.data().tensor(&x)?, store.data().tensor(&lengths)?);
        charge(&mut store, cost::pool(&x))?;
        answer(&mut store, |state| state.host.mean_pool(&state.meter, &x, &lengths))
    })?;
    interface.func_wrap("first-pool", |mut store: Store<'_>, (x, lengths): (Handle, Handle)| -> Result<Answer> {
        let (x, lengths) = (store.data().tensor(&x)?, store.data().tensor(&lengths)?);
        charge(&mut store, cost::pool(&x))?;
        answer(&mut store, |state| state.host.first_pool(&state.meter, &x, &lengths))
    })?;
    interface.func_wrap("last-rows", |mut store: Store<'_>, (x, lengths): (Handle, Handle)| -> Result<Answer> {
        let (x, lengths) = (store.data().tensor(&x)?, store.data().tensor(&lengths)?);
        charge(&mut store, cost::pool(&x))?;
        answer(&mut store, |state| state.host.last_rows(&state.meter, &x, &lengths))
    })?;
    interface.func_wrap("l2-normalise", |mut store: Store<'_>, (x,): (Handle,)| -> Result<Answer> {
        let x = store.data().tensor(&x)?;
        charge(&mut store, cost::normalise(&x))?;
        answer(&mut store, |state| state.host.l2_normalise(&state.meter, &x))
    })
}

pub(super) fn answer(
    store: &mut Store<'_>,
    compute: impl FnOnce(&State) -> std::result::Result<Tensor, NnError>,
) -> Result<Answer> {
    let state = store.data_mut();
    let result = compute(state).and_then(|tensor| state.keep(tensor));
    Ok((match result {
        Ok(handle) => Ok(handle),
        Err(error) => Err(match visible(error)? {
            NnError::TooLarge(text) => Refusal::TooLarge(text),
            other => Refusal::InvalidArgument(other.text().to_owned()),
        }),
    },))
}

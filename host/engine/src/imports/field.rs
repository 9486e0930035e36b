//! `ostrakon:plugin/field`: arithmetic modulo a prime.

use super::exact::{Answer, Handle, Store, answer};
use crate::admission::interface::FIELD;
use crate::cost;
use crate::state::{State, charge};
use ostrakon_nn::field::Field;
use wasmtime::Result;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmList};

/// `field.prime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Prime {
    #[component(name = "p24")]
    P24,
    #[component(name = "p31")]
    P31,
}

impl From<Prime> for Field {
    fn from(prime: Prime) -> Self {
        match prime {
            Prime::P24 => Self::P24,
            Prime::P31 => Self::P31,
        }
    }
}

impl From<Field> for Prime {
    fn from(field: Field) -> Self {
        match field {
            Field::P24 => Self::P24,
            Field::P31 => Self::P31,
        }
    }
}

type Expand = (Prime, WasmList<u8>, u32, u64, u32, u32);

pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    let mut interface = linker.instance(FIELD)?;
    interface.func_wrap(
        "expand",
        |mut store: Store<'_>, (p, seed, stream, first, rows, columns): Expand| -> Result<Answer> {
            charge(&mut store, cost::expand(rows, columns))?;
            // One byte more than a seed has shows that it is too long.
            let seed: Vec<u8> =
                seed.as_le_slice(&store).iter().copied().take(ostrakon_nn::field::SEED_BYTES + 1).collect();
            answer(&mut store, |state| {
                state.host.field_expand(&state.meter, p.into(), &seed, stream, first, (rows, columns))
            })
        },
    )?;
    interface.func_wrap("add", |mut store: Store<'_>, (p, a, b): (Prime, Handle, Handle)| -> Result<Answer> {
        let (a, b) = (store.data().tensor(&a)?, store.data().tensor(&b)?);
        charge(&mut store, cost::add(&a))?;
        answer(&mut store, |state| state.host.field_add(&state.meter, p.into(), &a, &b))
    })?;
    interface.func_wrap("subtract", |mut store: Store<'_>, (p, a, b): (Prime, Handle, Handle)| -> Result<Answer> {
        let (a, b) = (store.data().tensor(&a)?, store.data().tensor(&b)?);
        charge(&mut store, cost::add(&a))?;
        answer(&mut store, |state| state.host.field_subtract(&state.meter, p.into(), &a, &b))
    })?;
    interface.func_wrap("dot", |mut store: Store<'_>, (p, x, vectors): (Prime, Handle, Handle)| -> Result<Answer> {
        let (x, vectors) = (store.data().tensor(&x)?, store.data().tensor(&vectors)?);
        charge(&mut store, cost::dot(&x))?;
        answer(&mut store, |state| state.host.field_dot(&state.meter, p.into(), &x, &vectors))
    })
}

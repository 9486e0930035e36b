//! Splits activations among servers that must not learn them, and checks and combines what they give back.
//!
//! # Why
//!
//! Where a user's words must not leave the machine, the rules by which they are split have to be the same, and the right
//! ones, in whatever host asks for a linear layer: so they are a component. It holds no secret and draws no randomness:
//! seeds and vectors come as arguments, and the elements stay in the host's memory.
//!
//! # How
//!
//! 1. `mask`: what the servers with seeds have, summed up.
//! 2. `split`: what is left for the one without.
//! 3. `check`: both sides of Freivalds' check, two vectors at once, row by row.
//! 4. `combine`: the sum of all products.

use bindings::exports::ostrakon::plugin::sharing::{Failure, Guest, Place};
use bindings::ostrakon::plugin::field::{Prime, Refusal, Tensor, add, dot, expand, subtract};
use bindings::wasi::nn::tensor::TensorType;

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "secret-sharing",
        generate_all,
    });
}

/// Most servers that get a seed.
const MOST_SEEDS: usize = 15;

/// The component.
struct Component;

impl Guest for Component {
    fn mask(seeds: Vec<Vec<u8>>, at: Place) -> Result<Tensor, Failure> {
        let [first, rest @ ..] = seeds.as_slice() else { return bad("no seed: a server without one gets all") };
        if rest.len() >= MOST_SEEDS {
            return bad("more than 15 seeds");
        }
        let rows = |seed| expand(at.p, seed, at.stream, at.first, at.rows, at.columns).map_err(refused);
        rest.iter().try_fold(rows(first)?, |sum, seed| add(at.p, &sum, &rows(seed)?).map_err(refused))
    }

    fn split(p: Prime, codes: &Tensor, mask: &Tensor) -> Result<Tensor, Failure> {
        subtract(p, codes, mask).map_err(refused)
    }

    fn check(
        p: Prime,
        share: &Tensor,
        product: &Tensor,
        challenge: &Tensor,
        projection: &Tensor,
    ) -> Result<Option<u32>, Failure> {
        let rows = |x: &Tensor| x.dimensions().first().copied();
        if rows(share) != rows(product) {
            return bad("the share and its product have different numbers of rows");
        }
        let left = elements(&dot(p, product, challenge).map_err(refused)?)?;
        let right = elements(&dot(p, share, projection).map_err(refused)?)?;
        let wrong = left.chunks(8).zip(right.chunks(8)).position(|(left, right)| left != right);
        Ok(wrong.map(|row| u32::try_from(row).unwrap_or(u32::MAX)))
    }

    fn combine(p: Prime, a: &Tensor, b: &Tensor) -> Result<Tensor, Failure> {
        add(p, a, b).map_err(refused)
    }
}

/// Two elements a row, as bytes.
fn elements(sides: &Tensor) -> Result<Vec<u8>, Failure> {
    if !matches!(sides.ty(), TensorType::I32) {
        return bad("the host gave sides of another type than I32");
    }
    Ok(sides.data())
}

fn bad<T>(text: &str) -> Result<T, Failure> {
    Err(Failure::BadInput(text.to_owned()))
}

fn refused(refusal: Refusal) -> Failure {
    let (Refusal::InvalidArgument(text) | Refusal::TooLarge(text)) = refusal;
    Failure::Operation(text)
}

#[allow(unsafe_code)]
mod export {
    use super::Component;

    super::bindings::export!(Component with_types_in super::bindings);
}

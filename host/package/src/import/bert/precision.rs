//! Which layers get 16-bit activations.
//!
//! A 16-bit layer costs twice its products. Each layer's worth is how much of the loss on the judged
//! texts goes when it alone gets 16 bits; layers are taken by worth per product until the loss is small
//! enough.

use super::{
    ImportError, Progress,
    encoder::{ExactModel, Run},
    matrix::Matrix,
    tokens::Batch,
};
use ostrakon_exact::Activation;

/// The mean loss, one minus the cosine with the f32 model, that is good enough: on texts that the
/// weights were not fitted to.
const ENOUGH: f64 = 5e-4;

/// Longest text that it is measured on: short ones say as much and cost less.
const LONGEST: usize = 64;

/// A linear layer by its place.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    layer: usize,
}

/// The activations for all linear layers, block by block, of a model whose activations have 8 bits.
pub(super) fn choose(
    run: &Run,
    model: &mut ExactModel,
    all: &Batch,
    progress: Progress<'_>,
) -> Result<Vec<[Activation; 4]>, ImportError> {
    let (batch, which) = all.short_judged(LONGEST);
    let wanted: Vec<Vec<f64>> = which.into_iter().filter_map(|i| model.wanted.get(i).cloned()).collect();
    widen(run, model, &batch, &wanted, progress)?;
    Ok(model.blocks.iter_mut().map(|block| block.linears().map(|linear| linear.layer.activation)).collect())
}

/// Give 16 bits to as many layers as it takes.
fn widen(
    run: &Run,
    model: &mut ExactModel,
    batch: &Batch,
    wanted: &[Vec<f64>],
    progress: Progress<'_>,
) -> Result<(), ImportError> {
    let places: Vec<Place> =
        (0..model.blocks.len()).flat_map(|block| (0..4).map(move |layer| Place { block, layer })).collect();
    let total = places.len() as u64;
    progress("precision", 0, total);
    // The rows before each block, so that a change there is judged from there on.
    let mut before = vec![run.embed(&model.embeddings, batch)?];
    for block in &model.blocks {
        if let Some(x) = before.last() {
            let next = run.block(block, x, batch)?;
            before.push(next);
        }
    }
    let Some(last) = before.last() else { return Ok(()) };
    let base = run.loss(last, batch, wanted);
    if base <= ENOUGH {
        progress("precision", total, total);
        return Ok(());
    }
    let mut worth = Vec::with_capacity(places.len());
    for (done, &place) in places.iter().enumerate() {
        let products = set(model, place, Activation::U16);
        let loss = from(run, model, before.get(place.block), place.block, batch, wanted)?;
        set(model, place, Activation::U8);
        worth.push(((base - loss) / products as f64, place));
        progress("precision", done as u64 + 1, total);
    }
    worth.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (worth, place) in worth {
        if worth <= 0.0 {
            break;
        }
        set(model, place, Activation::U16);
        if from(run, model, before.first(), 0, batch, wanted)? <= ENOUGH {
            break;
        }
    }
    Ok(())
}

/// Set one layer's activation; how many products a row costs it.
fn set(model: &mut ExactModel, place: Place, activation: Activation) -> usize {
    let linear = model.blocks.get_mut(place.block).and_then(|b| b.linears().into_iter().nth(place.layer));
    linear.map_or(1, |linear| {
        linear.layer.activation = activation;
        (linear.layer.inputs * linear.layer.outputs).max(1)
    })
}

/// The loss of the model from block `first` on, fed with `x`.
fn from(
    run: &Run,
    model: &ExactModel,
    x: Option<&Matrix<f32>>,
    first: usize,
    batch: &Batch,
    wanted: &[Vec<f64>],
) -> Result<f64, ImportError> {
    let mut x = x.cloned().ok_or_else(|| ImportError::Exact("no rows before a block".to_owned()))?;
    for block in model.blocks.iter().skip(first) {
        x = run.block(block, &x, batch)?;
    }
    Ok(run.loss(&x, batch, wanted))
}

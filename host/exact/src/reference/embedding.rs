//! Rows of a table, by id.

use super::expect_len;
use crate::layer::Embedding;
use crate::ragged::ShapeError;
use alloc::format;

/// `out[t] = table[ids[t]] * scale[ids[t]]`, each code converted to f32 and multiplied once.
///
/// # Errors
/// An id outside the table, or an output of another size than [ids, width].
pub fn embedding(layer: &Embedding, ids: &[i32], out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("the output", out.len(), ids.len(), layer.width)?;
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(layer.width)) {
        let (codes, scale) = row(layer, id)?;
        for (&code, y) in codes.iter().zip(out) {
            *y = f32::from(code) * scale;
        }
    }
    Ok(())
}

fn row(layer: &Embedding, id: i32) -> Result<(&[i8], f32), ShapeError> {
    let outside = || ShapeError(format!("id {id} is outside the table of {} rows", layer.rows));
    let at = usize::try_from(id).map_err(|_| outside())?;
    let scale = *layer.scale.get(at).ok_or_else(outside)?;
    let start = at * layer.width;
    let codes = layer.table.as_slice().get(start..start + layer.width).ok_or_else(outside)?;
    Ok((codes, scale))
}

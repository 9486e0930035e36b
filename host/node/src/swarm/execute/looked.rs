//! What a node signed, looked at: is it for this place, of these blocks, of this input and of the output that came?
//!
//! Whether the output is right cannot be seen here: that is for quorums and audits.

use super::session::{Answered, Trouble};
use crate::receipt::element_type;
use crate::swarm::known::Carried;
use ostrakon_nn::tensor::byte_size;
use ostrakon_protocol::status::MAX_NAME;
use ostrakon_protocol::{Digest, Leg, Place, PublicKey};

/// What a leg must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// Where it belongs.
    pub(super) place: &'a Place,
    /// Name and component of each of its blocks.
    pub(super) blocks: &'a [(String, Digest)],
    /// Of the tensor that went in.
    pub(super) input: Digest,
}

impl Expected<'_> {
    /// Whether a leg is signed by `node` for this place, of these blocks and of this input, without a gap.
    pub(super) fn look(&self, node: PublicKey, leg: &Leg) -> Result<(), Trouble> {
        let wrong = |why: &str| Err(Trouble::Wrong(why.to_owned()));
        if leg.node != node || !leg.is_signed(self.place) {
            return Err(Trouble::Malformed("a leg without its signature for this place of the job".into()));
        }
        let plain = |c: char| c.is_ascii_graphic() || c == ' ';
        if leg.backend.len() > MAX_NAME || !leg.backend.chars().all(plain) {
            return Err(Trouble::Malformed("a name of a backend that is none".into()));
        }
        let named = leg.steps.iter().map(|step| (&step.block, &step.component));
        if !named.eq(self.blocks.iter().map(|(name, component)| (name, component))) {
            return wrong("it ran other blocks or other components than the package has there");
        }
        let mut input = self.input;
        for step in &leg.steps {
            if step.input != input {
                return wrong("its blocks do not go on from where the ones before ended");
            }
            input = step.output;
        }
        Ok(())
    }
}

/// Whether the output that came is the one that the leg names, with a shape that its bytes have.
pub(super) fn look_at_output(answered: &Answered) -> Result<(), Trouble> {
    let Answered { leg, output, .. } = answered;
    shape(output)?;
    match leg.steps.last() {
        Some(step) if step.output == output.digest => Ok(()),
        _ => Err(Trouble::Wrong("the output that it sent is not the one that it signed".into())),
    }
}

fn shape(output: &Carried) -> Result<(), Trouble> {
    let header = &output.header;
    let size = element_type(header.element).and_then(|ty| byte_size(&header.dimensions, ty).ok());
    if header.dimensions.len() <= ostrakon_nn::tensor::MAX_RANK && size == Some(header.bytes) {
        return Ok(());
    }
    Err(Trouble::Malformed("a tensor whose bytes do not fit its shape".into()))
}

//! What a block is, and how a type becomes the block of its component.

use crate::bindings::exports::ostrakon::plugin::block as wit;
use crate::bindings::wasi::nn::tensor as nn;
use crate::{Embedding, Failure, LayerNorm, Lengths, Linear, RmsNorm, Rotary, Settings, Tensor};
use core::cell::RefCell;
use core::marker::PhantomData;

/// One block of a model, opened for use. State it keeps between calls is its session's.
pub trait Block: Sized + 'static {
    /// Find what the block needs: its settings, its layers.
    ///
    /// # Errors
    /// [`Failure::BadSettings`] for settings that describe no block of this kind, the failure of a
    /// layer that cannot be had.
    fn open(block: &Opening) -> Result<Self, Failure>;

    /// Run the block on a ragged batch: the rows of all sequences, one after another.
    ///
    /// # Errors
    /// [`Failure::BadInput`] for an input of another shape or type, the failure of an operation.
    fn forward(&mut self, input: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure>;
}

/// The manifest's entry of the block that is being opened.
pub struct Opening {
    /// The block's name: `blocks.0`.
    pub name: String,
    /// Its settings.
    pub settings: Settings,
}

impl Opening {
    /// The block's linear layer with this name: `attention.qkv`.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn linear(&self, layer: &str) -> Result<Linear, Failure> {
        Linear::load(self.full_name(layer))
    }

    /// The block's embedding with this name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn embedding(&self, layer: &str) -> Result<Embedding, Failure> {
        Embedding::load(self.full_name(layer))
    }

    /// The block's layer norm with this name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn layer_norm(&self, layer: &str) -> Result<LayerNorm, Failure> {
        LayerNorm::load(self.full_name(layer))
    }

    /// The block's RMS norm with this name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn rms_norm(&self, layer: &str) -> Result<RmsNorm, Failure> {
        RmsNorm::load(self.full_name(layer))
    }

    /// The block's rotary embedding with this name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn rotary(&self, layer: &str) -> Result<Rotary, Failure> {
        Rotary::load(self.full_name(layer))
    }

    fn full_name(&self, layer: &str) -> String {
        [self.name.as_str(), ".", layer].concat()
    }
}

/// The component of a block. Made by [`export_block!`](crate::export_block).
#[doc(hidden)]
pub struct Component<B>(PhantomData<B>);

impl<B: Block> wit::Guest for Component<B> {
    type Session = Session<B>;
}

/// A block that is open, as the component exports it.
#[doc(hidden)]
pub struct Session<B>(RefCell<B>);

impl<B: Block> wit::GuestSession for Session<B> {
    fn open(name: String, settings: Vec<(String, String)>) -> Result<wit::Session, wit::Failure> {
        let block = B::open(&Opening { name, settings: Settings::new(settings) })?;
        Ok(wit::Session::new(Self(RefCell::new(block))))
    }

    fn forward(&self, input: nn::Tensor, lengths: &nn::Tensor) -> Result<nn::Tensor, wit::Failure> {
        let input = Tensor::from_handle(input);
        let lengths = Lengths::new(lengths, &input);
        // A component is never entered twice at a time, so this cannot be refused.
        let Ok(mut block) = self.0.try_borrow_mut() else {
            return Err(wit::Failure::Operation(String::from("the session is in use")));
        };
        Ok(block.forward(input, &lengths)?.into_handle())
    }
}

/// Make a [`Block`] the block of this component.
#[macro_export]
macro_rules! export_block {
    ($block:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        mod ostrakon_component {
            use super::*;

            type Component = $crate::block::Component<$block>;

            $crate::bindings::export!(Component with_types_in $crate::bindings);
        }
    };
}

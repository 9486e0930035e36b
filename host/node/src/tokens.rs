//! Texts to token ids, with the package's own tokenizer.
//!
//! A package carries the model's published `tokenizer.json` unchanged. Its padding and truncation
//! are switched off: padding would be computed for nothing, and the cut belongs to the model's limit
//! in the manifest.

use crate::generate::Answered;
use crate::tokenizer_admission;
use tokenizers::{EncodeInput, Tokenizer, TruncationParams};

/// Most bytes of a text that is run.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// The tokenizer of a package, cut to the package's limit.
pub struct Tokens(Tokenizer);

/// The ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenised {
    /// Token ids with the model's special tokens, at most the package's limit.
    pub ids: Vec<i32>,
    /// The text had more tokens than the limit; the rest was left out.
    pub truncated: bool,
    /// The answer that the ids end with, if its tokens are to be chosen again.
    pub answer: Option<Answered>,
}

/// The tokenizer could not be loaded or refused a text.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// `tokenizer.json` does not parse.
    #[error("the package's tokenizer.json cannot be used: {0}")]
    Load(String),
    /// `tokenizer.json` could make more of a text than this machine holds.
    #[error("the package's tokenizer.json is refused: {0}")]
    Refused(String),
    /// A text could not be tokenised.
    #[error("text {number} cannot be tokenised: {reason}")]
    Text {
        /// Counted from one.
        number: usize,
        /// The tokenizer's word.
        reason: String,
    },
    /// The tokenizer made no token at all; a model cannot run on nothing.
    #[error("text {0} has no tokens: the package's tokenizer adds no special tokens, so give a text that is not empty")]
    Empty(usize),
}

impl Tokens {
    /// Parse `tokenizer.json` for sequences of at most `max_tokens`.
    ///
    /// # Errors
    /// When it is refused (see [`tokenizer_admission`](crate::tokenizer_admission)), does not parse, or its
    /// special tokens alone exceed the limit.
    pub fn load(json: &[u8], max_tokens: usize) -> Result<Self, TokenError> {
        tokenizer_admission::check(json)?;
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| TokenError::Load(e.to_string()))?;
        tokenizer.with_padding(None);
        let cut = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|e| TokenError::Load(e.to_string()))?;
        Ok(Self(tokenizer))
    }

    /// The ids of each text, in order.
    ///
    /// # Errors
    /// When the tokenizer refuses a text or makes no token of it.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<Tokenised>, TokenError> {
        texts.iter().enumerate().map(|(at, text)| self.one(at + 1, text)).collect()
    }

    /// The ids of a text, marks in it as the tokens that they are; none are added.
    ///
    /// # Errors
    /// When the tokenizer refuses it.
    pub fn ids_of(&self, text: &str) -> Result<Vec<u32>, TokenError> {
        let refused = |reason: String| TokenError::Text { number: 1, reason };
        let encoding = self.0.encode_fast(EncodeInput::from(text), false).map_err(|e| refused(e.to_string()))?;
        if encoding.get_overflowing().is_empty() {
            return Ok(encoding.get_ids().to_vec());
        }
        let whole: usize = encoding.get_overflowing().iter().map(|rest| rest.get_ids().len()).sum();
        let (tokens, most) = (encoding.get_ids().len() + whole, encoding.get_ids().len());
        Err(refused(format!("it has {tokens} tokens, and the model's context ends at {most}: give a shorter one")))
    }

    /// The text of ids, with or without marks such as `<|im_end|>`. Bytes that are no characters are shown as U+FFFD.
    pub fn text_of(&self, ids: &[u32], without_marks: bool) -> String {
        self.0.decode(ids, without_marks).unwrap_or_default()
    }

    fn one(&self, number: usize, text: &str) -> Result<Tokenised, TokenError> {
        let input = EncodeInput::from(text);
        let encoding =
            self.0.encode_fast(input, true).map_err(|e| TokenError::Text { number, reason: e.to_string() })?;
        let ids = encoding.get_ids().iter().map(|&id| i32::try_from(id));
        let ids: Vec<i32> = ids
            .collect::<Result<_, _>>()
            .map_err(|_| TokenError::Text { number, reason: "a token id does not fit 31 bits".into() })?;
        if ids.is_empty() {
            return Err(TokenError::Empty(number));
        }
        Ok(Tokenised { ids, truncated: !encoding.get_overflowing().is_empty(), answer: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}
    }"#;

    #[test]
    fn padding_and_cut_of_the_file_are_replaced() {
        let tokens = Tokens::load(WORDS.as_bytes(), 4).unwrap();
        let made = tokens.encode(&["A b c".into(), "a b a b a".into()]).unwrap();
        assert_eq!(made[0], Tokenised { ids: vec![1, 2, 0], truncated: false, answer: None });
        assert_eq!(made[1], Tokenised { ids: vec![1, 2, 1, 2], truncated: true, answer: None });
    }

    #[test]
    fn nothing_is_an_error_with_the_number_of_the_text() {
        let tokens = Tokens::load(WORDS.as_bytes(), 4).unwrap();
        let error = tokens.encode(&["a".into(), String::new()]).unwrap_err();
        assert!(matches!(error, TokenError::Empty(2)), "{error}");
    }

    #[test]
    fn a_broken_file_is_an_error() {
        assert!(matches!(Tokens::load(b"{", 4), Err(TokenError::Load(_))));
    }
}

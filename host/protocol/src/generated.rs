//! Generated answers: what was gone on from, what came of it, and how tokens were chosen.
//!
//! # How
//!
//! An answer is not computed again token by token. Everything is exact, so the model, run once on the prompt and the
//! answer but for its last token, gives the very logits from which each token was chosen. A [`Request`](crate::Request)
//! with a [`Generated`] asks for that run, and for the tokens that follow from its logits: they are the output.

use crate::digest::{Context, Digest};
use minicbor::decode::Error;
use minicbor::{Decode, Decoder, Encode};

/// Most tokens of a prompt and its answer.
pub const MAX_TOKENS: usize = 1 << 20;

/// Most tokens with a bias, and most that end an answer.
pub const MAX_MARKED: usize = 1024;

/// An answer, and all that it follows from but the model.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub struct Generated {
    /// The tokens that the answer goes on from, at least one.
    #[n(0)]
    pub prompt: Vec<u32>,
    /// The answer's tokens, at least one.
    #[n(1)]
    pub answer: Vec<u32>,
    /// How they were chosen.
    #[n(2)]
    pub choice: TokenChoice,
    /// Tokens that end an answer, as its last one; rising.
    #[n(3)]
    pub stop: Vec<u32>,
    /// Most tokens of the answer; less where the model's context ends. Whoever ends an answer for another reason asks
    /// for no more than there are.
    #[n(4)]
    pub max_tokens: u32,
}

/// How tokens are chosen. Numbers with a fraction are the bits of an f32.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenChoice {
    /// 0: the likeliest token.
    #[n(0)]
    pub temperature: u32,
    /// Only the so many likeliest; 0: all.
    #[n(1)]
    pub top_k: u32,
    /// Only the likeliest that together have this probability.
    #[n(2)]
    pub top_p: u32,
    /// What the lots follow from.
    #[n(3)]
    pub seed: u64,
    /// What logits of tokens that were there are divided by.
    #[n(4)]
    pub repetition_penalty: u32,
    /// Taken off as often as a token was generated.
    #[n(5)]
    pub frequency_penalty: u32,
    /// Taken off once.
    #[n(6)]
    pub presence_penalty: u32,
    /// Added to the logits of these tokens, which rise.
    #[n(7)]
    pub bias: Vec<(u32, u32)>,
}

#[derive(Decode)]
struct Unchecked {
    #[n(0)]
    prompt: Vec<u32>,
    #[n(1)]
    answer: Vec<u32>,
    #[n(2)]
    choice: TokenChoice,
    #[n(3)]
    stop: Vec<u32>,
    #[n(4)]
    max_tokens: u32,
}

impl<'b, C> Decode<'b, C> for Generated {
    fn decode(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        let Unchecked { prompt, answer, choice, stop, max_tokens } = Unchecked::decode(decoder, context)?;
        let generated = Self { prompt, answer, choice, stop, max_tokens };
        generated.check().map_err(Error::message)?;
        Ok(generated)
    }
}

impl Generated {
    /// Whether it is within its bounds and said in the one way in which it can be said.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), String> {
        let (prompt, answer) = (self.prompt.len(), self.answer.len());
        if prompt == 0 || answer == 0 || prompt.saturating_add(answer) > MAX_TOKENS {
            return Err(format!(
                "an answer of {answer} tokens to a prompt of {prompt}: each at least 1, together at most {MAX_TOKENS}"
            ));
        }
        let bias: Vec<u32> = self.choice.bias.iter().map(|&(token, _)| token).collect();
        for (name, tokens) in [("have a bias", &bias), ("end the answer", &self.stop)] {
            if tokens.len() > MAX_MARKED || !tokens.is_sorted_by(|a, b| a < b) {
                return Err(format!("the tokens that {name} must rise and be at most {MAX_MARKED}"));
            }
        }
        Ok(())
    }

    /// The output that the answer claims to be: its tokens, and that it ends with them.
    pub fn claimed(&self) -> Digest {
        Digest::of_tokens(&self.answer, true)
    }
}

impl Digest {
    /// The digest of a generated output: 1 if it ends with these tokens or 0 if it goes on (u8), then the tokens (u32,
    /// little-endian).
    pub fn of_tokens(tokens: &[u32], ends: bool) -> Self {
        let mut hasher = Context::TOKENS.hasher();
        hasher.update(&[u8::from(ends)]);
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        hasher.update(&bytes);
        Self::from(hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use crate::encoding::content;

    fn generated() -> Generated {
        let one = 1f32.to_bits();
        let choice = TokenChoice {
            temperature: 0,
            top_k: 3,
            top_p: one,
            seed: u64::MAX,
            repetition_penalty: one,
            frequency_penalty: 0,
            presence_penalty: (-1f32).to_bits(),
            bias: vec![(1, one), (7, 0)],
        };
        Generated { prompt: vec![1, 2], answer: vec![300, 2], choice, stop: vec![2, 5], max_tokens: 9 }
    }

    fn again(request: &Request) -> Result<Request, Error> {
        minicbor::decode(&content(request))
    }

    #[test]
    fn a_request_of_texts_is_what_it_was_before_answers_could_be_asked_for() {
        let request = Request::of_texts(Digest::from_bytes([3; 32]), vec!["one".into(), String::new()]);
        let mut bytes = vec![0x82, 0x58, 0x20];
        bytes.extend([3; 32]);
        bytes.extend([0x82, 0x63, b'o', b'n', b'e', 0x60]);
        assert_eq!(content(&request), bytes);
        assert_eq!(request.digest(), Digest::of(Context::REQUEST, &bytes));
        assert_eq!(minicbor::decode::<Request>(&bytes).unwrap(), request);
        assert_eq!(request.outputs(), 2);
    }

    #[test]
    fn an_answer_travels_and_counts_once() {
        let package = Digest::from_bytes([3; 32]);
        let request = Request { package, texts: vec!["a".into(), "b".into()], generation: Some(generated()) };
        assert_eq!(again(&request).unwrap(), request);
        assert_eq!(request.outputs(), 1);
        assert_ne!(request.digest(), Request { generation: None, ..request.clone() }.digest());
    }

    #[test]
    fn what_is_out_of_bounds_is_not_read() {
        let changed: [&dyn Fn(&mut Generated); 8] = [
            &|g| g.prompt.clear(),
            &|g| g.answer.clear(),
            &|g| g.answer = vec![1; MAX_TOKENS - 1],
            &|g| g.stop = vec![5, 2],
            &|g| g.stop = vec![2, 2],
            &|g| g.stop = (0..=MAX_MARKED as u32).collect(),
            &|g| g.choice.bias.swap(0, 1),
            &|g| g.choice.bias = (0..=MAX_MARKED as u32).map(|token| (token, 0)).collect(),
        ];
        for change in changed {
            let mut generated = generated();
            change(&mut generated);
            let package = Digest::from_bytes([3; 32]);
            assert!(again(&Request { package, texts: vec![], generation: Some(generated) }).is_err());
        }
    }

    #[test]
    fn tokens_and_their_end_count() {
        let whole = Digest::of_tokens(&[1, 2], true);
        for other in
            [Digest::of_tokens(&[1, 2], false), Digest::of_tokens(&[2, 1], true), Digest::of_tokens(&[1], true)]
        {
            assert_ne!(whole, other);
        }
        assert_eq!(generated().claimed(), Digest::of_tokens(&[300, 2], true));
    }
}

//! The blocks of Llama-family decoders.
//!
//! A model is `embeddings`, then decoders, then the head. Which of them a block is, its setting `kind` says. Hidden
//! states are FP32 [rows, width], the rows of all sequences one after another.
//!
//! A row sees the rows before it in its sequence and no others. So a sequence may come in pieces, in one call each: the
//! host keeps what attention needs of earlier pieces, and a row gives the same bytes as if all had come at once.

use ostrakon_guest::{
    Block, Element, Embedding, Failure, Lengths, Linear, Opening, RmsNorm, Rotary, Tensor, exact, export_block,
};

/// Token ids to hidden states.
struct Embeddings {
    words: Embedding,
}

impl Block for Embeddings {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind"])?;
        Ok(Self { words: block.embedding("words")? })
    }

    fn forward(&mut self, ids: Tensor, _: &Lengths<'_>) -> Result<Tensor, Failure> {
        ids.expect("token ids", Element::I32, 1)?;
        self.words.forward(ids)
    }
}

/// Attention, then a gated feed-forward network, each normalised before and added to what it was given.
struct Decoder {
    heads: u32,
    kv_heads: u32,
    attention: Attention,
    feed_forward: FeedForward,
}

struct Attention {
    norm: RmsNorm,
    qkv: Linear,
    rotary: Rotary,
    output: Linear,
}

struct FeedForward {
    norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

impl Block for Decoder {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind", "heads", "kv-heads"])?;
        Ok(Self {
            heads: block.settings.count("heads")?,
            kv_heads: block.settings.count("kv-heads")?,
            attention: Attention {
                norm: block.rms_norm("attention.norm")?,
                qkv: block.linear("attention.qkv")?,
                rotary: block.rotary("attention.rotary")?,
                output: block.linear("attention.output")?,
            },
            feed_forward: FeedForward {
                norm: block.rms_norm("feed-forward.norm")?,
                gate_up: block.linear("feed-forward.gate-up")?,
                down: block.linear("feed-forward.down")?,
            },
        })
    }

    fn forward(&mut self, x: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        x.expect("hidden states", Element::Fp32, 2)?;

        let Attention { norm, qkv, rotary, output } = &self.attention;
        let qkv = rotary.forward(qkv.forward(norm.forward(&x)?)?, lengths.positions()?)?;
        let attended = exact::causal_attention(qkv, lengths, self.heads, self.kv_heads)?;
        let x = exact::add(output.forward(attended)?, x)?;

        let FeedForward { norm, gate_up, down } = &self.feed_forward;
        let hidden = exact::swiglu(gate_up.forward(norm.forward(&x)?)?)?;
        exact::add(down.forward(hidden)?, x)
    }
}

/// Hidden states to a number for each token of the vocabulary: the larger, the likelier the next. Only of the rows of
/// which that is wanted.
struct Head {
    norm: RmsNorm,
    head: Linear,
}

impl Block for Head {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind"])?;
        Ok(Self { norm: block.rms_norm("norm")?, head: block.linear("head")? })
    }

    fn forward(&mut self, x: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        x.expect("hidden states", Element::Fp32, 2)?;
        self.head.forward(self.norm.forward(exact::last_rows(x, lengths)?)?)
    }
}

/// Any of them.
enum Llama {
    Embeddings(Embeddings),
    Decoder(Decoder),
    Head(Head),
}

impl Block for Llama {
    fn open(block: &Opening) -> Result<Self, Failure> {
        match block.settings.text("kind")? {
            "embeddings" => Embeddings::open(block).map(Self::Embeddings),
            "decoder" => Decoder::open(block).map(Self::Decoder),
            "head" => Head::open(block).map(Self::Head),
            _ => Err(block.settings.not_one_of("kind", &["embeddings", "decoder", "head"])),
        }
    }

    fn forward(&mut self, input: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        match self {
            Self::Embeddings(block) => block.forward(input, lengths),
            Self::Decoder(block) => block.forward(input, lengths),
            Self::Head(block) => block.forward(input, lengths),
        }
    }
}

export_block!(Llama);

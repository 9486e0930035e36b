//! The blocks of BERT-family encoders.
//!
//! A model is `embeddings`, then encoders, then `pooling`. Which of them a block is, its setting
//! `kind` says. Hidden states are FP32 [rows, width], the rows of all sequences one after another.

use ostrakon_guest::{
    Block, Element, Embedding, Failure, LayerNorm, Lengths, Linear, Opening, Tensor, exact, export_block,
};

/// Token ids to hidden states: the norm of word plus position.
///
/// The embedding of the token type is the same for every token and is part of the positions' table.
struct Embeddings {
    words: Embedding,
    positions: Embedding,
    norm: LayerNorm,
}

impl Block for Embeddings {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind"])?;
        Ok(Self {
            words: block.embedding("words")?,
            positions: block.embedding("positions")?,
            norm: block.layer_norm("norm")?,
        })
    }

    fn forward(&mut self, ids: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        ids.expect("token ids", Element::I32, 1)?;
        let words = self.words.forward(ids)?;
        let positions = self.positions.forward(lengths.positions()?)?;
        self.norm.forward_sum(words, positions)
    }
}

/// Attention, then a feed-forward network, each added to what it was given and normalised.
struct Encoder {
    heads: u32,
    attention: Attention,
    feed_forward: FeedForward,
}

struct Attention {
    qkv: Linear,
    output: Linear,
    norm: LayerNorm,
}

struct FeedForward {
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

impl Block for Encoder {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind", "heads"])?;
        Ok(Self {
            heads: block.settings.count("heads")?,
            attention: Attention {
                qkv: block.linear("attention.qkv")?,
                output: block.linear("attention.output")?,
                norm: block.layer_norm("attention.norm")?,
            },
            feed_forward: FeedForward {
                up: block.linear("feed-forward.up")?,
                down: block.linear("feed-forward.down")?,
                norm: block.layer_norm("feed-forward.norm")?,
            },
        })
    }

    fn forward(&mut self, x: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        x.expect("hidden states", Element::Fp32, 2)?;

        let Attention { qkv, output, norm } = &self.attention;
        let attended = exact::attention(qkv.forward(&x)?, lengths, self.heads)?;
        let x = norm.forward_sum(output.forward(attended)?, x)?;

        let FeedForward { up, down, norm } = &self.feed_forward;
        let hidden = exact::gelu(up.forward(&x)?)?;
        norm.forward_sum(down.forward(hidden)?, x)
    }
}

/// The rows of each sequence to one row, of length 1 if so set.
struct Pooling {
    pool: Pool,
    normalise: bool,
}

enum Pool {
    Mean,
    First,
}

impl Block for Pooling {
    fn open(block: &Opening) -> Result<Self, Failure> {
        block.settings.only(&["kind", "pool", "normalise"])?;
        let pool = match block.settings.text("pool")? {
            "mean" => Pool::Mean,
            "first" => Pool::First,
            _ => return Err(block.settings.not_one_of("pool", &["mean", "first"])),
        };
        Ok(Self { pool, normalise: block.settings.flag("normalise")? })
    }

    fn forward(&mut self, x: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        x.expect("hidden states", Element::Fp32, 2)?;
        let pooled = match self.pool {
            Pool::Mean => exact::mean_pool(x, lengths)?,
            Pool::First => exact::first_pool(x, lengths)?,
        };
        if self.normalise { exact::l2_normalise(pooled) } else { Ok(pooled) }
    }
}

/// Any of them.
enum Bert {
    Embeddings(Embeddings),
    Encoder(Encoder),
    Pooling(Pooling),
}

impl Block for Bert {
    fn open(block: &Opening) -> Result<Self, Failure> {
        match block.settings.text("kind")? {
            "embeddings" => Embeddings::open(block).map(Self::Embeddings),
            "encoder" => Encoder::open(block).map(Self::Encoder),
            "pooling" => Pooling::open(block).map(Self::Pooling),
            _ => Err(block.settings.not_one_of("kind", &["embeddings", "encoder", "pooling"])),
        }
    }

    fn forward(&mut self, input: Tensor, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
        match self {
            Self::Embeddings(block) => block.forward(input, lengths),
            Self::Encoder(block) => block.forward(input, lengths),
            Self::Pooling(block) => block.forward(input, lengths),
        }
    }
}

export_block!(Bert);

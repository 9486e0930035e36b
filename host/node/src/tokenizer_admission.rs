//! Which tokenizers may run here.
//!
//! # Why
//!
//! `tokenizer.json` is a small program from a stranger: it can replace one letter by a thousand, many
//! times over, or search a long word by every prefix. None of that is needed by the models we run.
//!
//! # How
//!
//! Before the file is given to the tokenizers library, its parts are held to a list of kinds whose work
//! and output are bounded by a small multiple of the text.

use crate::tokens::TokenError;
use serde::Deserialize;
use serde_json::Value;

const NORMALIZERS: [&str; 9] =
    ["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "Sequence"];
const PRE_TOKENIZERS: [&str; 7] =
    ["BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "ByteLevel", "Sequence"];
const POST_PROCESSORS: [&str; 3] = ["BertProcessing", "TemplateProcessing", "ByteLevel"];
const MODELS: [&str; 3] = ["WordPiece", "WordLevel", "BPE"];
/// Most steps of a sequence, and pieces of a template.
const MAX_STEPS: usize = 16;
/// Longest word that is looked up piece by piece; the work grows with its square.
const MAX_WORD: u64 = 1000;
/// Longest prefix of a piece inside a word.
const MAX_PREFIX: usize = 16;

#[derive(Deserialize)]
struct Parts {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    max_input_chars_per_word: Option<u64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f64>,
}

/// Refuse a tokenizer with a part that is not on the list.
///
/// # Errors
/// The part and why.
pub fn check(json: &[u8]) -> Result<(), TokenError> {
    let parts: Parts = serde_json::from_slice(json).map_err(|e| TokenError::Load(e.to_string()))?;
    check_part("normalizer", parts.normalizer.as_ref(), &NORMALIZERS, Some("normalizers"))?;
    check_part("pre_tokenizer", parts.pre_tokenizer.as_ref(), &PRE_TOKENIZERS, Some("pretokenizers"))?;
    check_part("post_processor", parts.post_processor.as_ref(), &POST_PROCESSORS, None)?;
    check_template(parts.post_processor.as_ref())?;
    check_model(&parts.model)
}

fn check_part(part: &str, value: Option<&Value>, allowed: &[&str], steps: Option<&str>) -> Result<(), TokenError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(()) };
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("no type");
    if !allowed.contains(&kind) {
        let kind: String = kind.chars().take(40).collect();
        return Err(refused(format!("its {part} is {kind:?}; allowed: {}", allowed.join(", "))));
    }
    if kind != "Sequence" {
        return Ok(());
    }
    let steps = steps.and_then(|steps| value.get(steps)).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if steps.len() > MAX_STEPS {
        return Err(refused(format!("its {part} has {} steps, at most {MAX_STEPS} are allowed", steps.len())));
    }
    // A sequence inside a sequence would be a way around the count.
    let single: Vec<&str> = allowed.iter().copied().filter(|&kind| kind != "Sequence").collect();
    steps.iter().try_for_each(|step| check_part(part, Some(step), &single, None))
}

fn check_template(value: Option<&Value>) -> Result<(), TokenError> {
    let pieces = value.and_then(|v| v.get("single")).and_then(Value::as_array).map_or(0, Vec::len);
    if pieces > MAX_STEPS {
        return Err(refused(format!("its template has {pieces} pieces, at most {MAX_STEPS} are allowed")));
    }
    Ok(())
}

fn check_model(model: &Model) -> Result<(), TokenError> {
    let kind = model.kind.as_deref().unwrap_or("no type");
    if !MODELS.contains(&kind) {
        let kind: String = kind.chars().take(40).collect();
        return Err(refused(format!("its model is {kind:?}; allowed: {}", MODELS.join(", "))));
    }
    if model.max_input_chars_per_word.is_some_and(|most| most > MAX_WORD) {
        return Err(refused(format!("its max_input_chars_per_word is over {MAX_WORD}")));
    }
    for (what, text) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_PREFIX) {
            return Err(refused(format!("its {what} is over {MAX_PREFIX} bytes")));
        }
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(refused("its dropout is not 0: the same text would have other tokens each time".into()));
    }
    Ok(())
}

fn refused(why: String) -> TokenError {
    TokenError::Refused(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(normalizer: &str, pre: &str, model: &str) -> Result<(), TokenError> {
        let json = format!(r#"{{"normalizer": {normalizer}, "pre_tokenizer": {pre}, "model": {model}}}"#);
        check(json.as_bytes())
    }

    const BERT: &str = r#"{"type": "WordPiece", "max_input_chars_per_word": 100, "vocab": {}}"#;

    #[test]
    fn berts_are_let_in() {
        with(r#"{"type": "BertNormalizer"}"#, r#"{"type": "BertPreTokenizer"}"#, BERT).unwrap();
        with(r#"{"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}"#, "null", BERT).unwrap();
    }

    #[test]
    fn byte_level_pairs_are_let_in() {
        let words = r#"{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}"#;
        with("null", words, r#"{"type": "BPE", "dropout": null, "vocab": {}, "merges": []}"#).unwrap();
    }

    #[test]
    fn what_can_blow_up_is_refused_by_name() {
        let replace = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}"#;
        let nested = format!(r#"{{"type": "Sequence", "normalizers": [{replace}]}}"#);
        let deep = r#"{"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}"#;
        let many = format!(r#"{{"type": "Sequence", "normalizers": [{}]}}"#, [r#"{"type": "NFKD"}"#; 17].join(","));
        for normalizer in [replace, &nested, deep, &many, r#"{"type": "Prepend", "prepend": "x"}"#, "{}", "7"] {
            assert!(matches!(with(normalizer, "null", BERT), Err(TokenError::Refused(_))), "{normalizer}");
        }
        let split = r#"{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false}"#;
        assert!(with("null", split, BERT).is_err());
        for model in [
            r#"{"type": "BPE", "dropout": 0.1}"#,
            r#"{"type": "BPE", "end_of_word_suffix": "-------------------"}"#,
            r#"{"type": "Unigram"}"#,
            r#"{"type": "WordPiece", "max_input_chars_per_word": 1000000}"#,
            r#"{"type": "WordPiece", "continuing_subword_prefix": "-------------------"}"#,
            "{}",
        ] {
            assert!(matches!(with("null", "null", model), Err(TokenError::Refused(_))), "{model}");
        }
    }

    #[test]
    fn any_other_text_is_an_error() {
        for json in ["", "[]", "{}", "{\"model\": 3}", "\u{0}"] {
            assert!(check(json.as_bytes()).is_err());
        }
    }
}

//! Similarities as a table: every text with every other.

use crate::commands::plain;
use crate::style::Style;
use ostrakon_node::Output;
use std::io::{self, Write};

/// Most texts that fit a terminal as a square.
const MOST: usize = 12;
/// Widest a text is shown.
const TEXT_WIDTH: usize = 48;

/// The cosine of two outputs, in double precision: for looking at, never hashed.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// Write outputs: the square of their similarities, or a line with the digest of each where there are many.
pub(crate) fn outputs(out: &mut dyn Write, style: Style, texts: &[String], outputs: &[Output]) -> io::Result<()> {
    if outputs.len() <= MOST {
        let values = outputs.iter().map(|output| output.values.as_slice());
        let rows: Vec<(&str, &[f32])> = texts.iter().map(String::as_str).zip(values).collect();
        return write(out, style, &rows);
    }
    for (at, (text, output)) in texts.iter().zip(outputs).enumerate() {
        let digest = output.digest.to_string();
        writeln!(out, "{:>5}  {}  {}", at + 1, style.faint(digest.get(..16).unwrap_or_default()), shorten(text))?;
    }
    Ok(())
}

/// Write the square of similarities of `rows` (text and output).
fn write(out: &mut dyn Write, style: Style, rows: &[(&str, &[f32])]) -> io::Result<()> {
    let shown: Vec<String> = rows.iter().map(|(text, _)| shorten(text)).collect();
    let width = shown.iter().map(|s| console::measure_text_width(s)).max().unwrap_or(0);
    write!(out, "{:>3}  {:width$}", "", "")?;
    for number in 1..=rows.len() {
        write!(out, "  {}", style.faint(&format!("{number:>5}")))?;
    }
    writeln!(out)?;
    for (at, ((_, a), text)) in rows.iter().zip(&shown).enumerate() {
        let fill = " ".repeat(width.saturating_sub(console::measure_text_width(text)));
        write!(out, "{}  {text}{fill}", style.faint(&format!("{:>3}", at + 1)))?;
        for (_, b) in rows {
            write!(out, "  {}", cell(style, cosine(a, b)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn cell(style: Style, value: f64) -> String {
    let text = format!("{value:>5.2}");
    match value {
        v if v > 0.995 => style.faint(&text),
        v if v >= 0.5 => style.good(&text),
        v if v >= 0.25 => style.warn(&text),
        _ => text,
    }
}

/// A text on one line, without characters that move the cursor or turn the direction, cut to what fits.
pub(crate) fn shorten(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    console::truncate_str(&plain(&line), TEXT_WIDTH, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_square_has_a_row_and_a_column_for_every_text() {
        let mut out = Vec::new();
        write(&mut out, Style::plain(), &[("one", &[1.0, 0.0]), ("zwei\x1b[2J", &[0.0, 2.0])]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\x1b'));
        assert!(text.lines().nth(1).unwrap().ends_with("1.00   0.00"), "{text}");
    }

    #[test]
    fn nothing_moves_the_cursor_or_turns_the_direction() {
        assert_eq!(shorten("a\nb\tc"), "a b c");
        assert_eq!(shorten("user\u{202e}txt\u{2066}\u{1b}[2J"), "user\u{fffd}txt\u{fffd}\u{fffd}[2J");
    }

    #[test]
    fn nothing_divides_by_zero() {
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
    }

    #[test]
    fn wide_texts_are_cut_by_columns() {
        assert_eq!(console::measure_text_width(&shorten(&"字".repeat(100))), TEXT_WIDTH - 1);
    }
}

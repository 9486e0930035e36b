//! Progress of long work: bars on a terminal, nothing anywhere else. Always on standard error, so that
//! the answer can be piped.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ostrakon_node::progress::Event;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Draws what long work reports.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Drawn if standard error is a terminal and the answer is not for a program.
    pub(crate) fn new(json: bool) -> Self {
        let draw = !json && io::stderr().is_terminal();
        let target = if draw { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(spinner());
        if draw {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar }
    }

    /// Show an event.
    pub(crate) fn show(&self, event: Event) {
        match event {
            Event::Step(text) => {
                self.bar.unset_length();
                self.bar.set_position(0);
                self.bar.set_style(spinner());
                self.bar.set_message(text);
            }
            Event::Done { done, total } => {
                if self.bar.length() != Some(total) {
                    self.bar.set_length(total);
                    self.bar.set_style(counted());
                }
                self.bar.set_position(done);
            }
            Event::Note(text) => self.bar.println(text),
        }
    }

    /// Leave the terminal as it was.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

// The templates are constants; should one not parse, the plain style does as well.
fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn counted() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {eta:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_parse() {
        assert!(ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}").is_ok());
        assert!(ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {eta:.dim}").is_ok());
    }
}

//! Progress of long work on a terminal: reading, sending, storing. Nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// A bar on standard error that is gone when the work is done.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar that shows nothing unless `shown`.
    #[must_use]
    pub fn new(shown: bool) -> Self {
        Self(ProgressBar::with_draw_target(
            None,
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        ))
    }

    /// Starts a phase with a known number of bytes, or of an unknown length.
    pub fn bytes(&self, phase: &'static str, total: Option<u64>) {
        match total {
            Some(total) => self.start(
                phase,
                total,
                "{msg:<8} {wide_bar:.green} {bytes}/{total_bytes}  {bytes_per_sec}",
            ),
            None => self.wait(phase),
        }
    }

    /// Starts a phase with a known number of things.
    pub fn things(&self, phase: &'static str, total: u64) {
        self.start(phase, total, "{msg:<8} {wide_bar:.green} {human_pos}/{human_len}");
    }

    /// Starts a phase of unknown length.
    pub fn wait(&self, phase: &'static str) {
        self.0.set_style(style("{msg:<8} {spinner} {elapsed}"));
        self.0.set_message(phase);
        self.0.enable_steady_tick(TURN);
    }

    /// So much more is done.
    pub fn advance(&self, amount: u64) {
        self.0.inc(amount);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }

    fn start(&self, phase: &'static str, total: u64, template: &str) {
        self.0.disable_steady_tick();
        self.0.reset();
        self.0.set_style(style(template));
        self.0.set_length(total);
        self.0.set_message(phase);
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that can't be read would only look plainer.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

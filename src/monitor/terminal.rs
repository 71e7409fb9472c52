//! Events for people: a progress bar on a terminal, plain lines elsewhere; all on stderr.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::event::{Event, Events, Phase};
use crate::base::units::{format_bytes, format_duration};

/// How often progress is shown where there is no terminal.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);
/// How often a bar is drawn, per second.
const DRAWS_PER_SECOND: u8 = 8;

/// How much is shown, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar that is redrawn: stderr is a terminal.
    Bar,
    /// A line now and then.
    Lines,
    /// Warnings only.
    Quiet,
}

/// Shows events on stderr.
#[must_use]
pub fn terminal(style: Style) -> Events {
    let screen = Mutex::new(Screen::new(style));
    Events::new(move |event| {
        let mut screen = screen.lock().unwrap_or_else(|broken| broken.into_inner());
        screen.show(&event);
    })
}

struct Screen {
    style: Style,
    bar: ProgressBar,
    phase: Option<Phase>,
    phase_since: Instant,
    line_at: Option<Instant>,
    loss: f64,
}

impl Screen {
    fn new(style: Style) -> Self {
        let bar = match style {
            Style::Bar => ProgressBar::with_draw_target(
                None,
                ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
            ),
            Style::Lines | Style::Quiet => ProgressBar::hidden(),
        };
        Self {
            style,
            bar,
            phase: None,
            phase_since: Instant::now(),
            line_at: None,
            loss: 0.0,
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Phase { phase } => self.enter(*phase),
            Event::Progress {
                bytes_done,
                bytes_total,
            } => self.progress(*bytes_done, *bytes_total),
            Event::Warning { text } => self.line(&format!("warning: {text}")),
            Event::Note { text } if self.style != Style::Quiet => self.line(text),
            Event::Node { loss, .. } => self.loss = *loss,
            Event::Note { .. } => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        if self.phase == Some(phase) {
            return;
        }
        self.phase = Some(phase);
        self.phase_since = Instant::now();
        self.line_at = None;
        match self.style {
            Style::Quiet => {}
            Style::Lines => self.line(title(phase)),
            Style::Bar if phase == Phase::Done => self.bar.finish_and_clear(),
            Style::Bar => {
                self.bar.reset();
                self.bar.set_style(spinner());
                self.bar.set_message(title(phase));
                self.bar.enable_steady_tick(Duration::from_millis(250));
            }
        }
    }

    fn progress(&mut self, done: u64, total: u64) {
        match self.style {
            Style::Quiet => {}
            Style::Bar => {
                if self.bar.length() != Some(total) {
                    self.bar.set_length(total);
                    self.bar.set_style(bar());
                }
                self.bar.set_position(done);
            }
            Style::Lines => {
                let due = self.line_at.is_none_or(|at| at.elapsed() >= PLAIN_PERIOD);
                if due && total > 0 {
                    self.line_at = Some(Instant::now());
                    let text = plain(self.phase, done, total, self.phase_since.elapsed());
                    self.line(&text);
                }
            }
        }
    }

    fn line(&self, text: &str) {
        let clean: String = text
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        self.bar.suspend(|| {
            use std::io::Write as _;
            // Nothing can be said where stderr is gone.
            drop(writeln!(std::io::stderr(), "{clean}"));
        });
    }
}

const fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Finding => "finding a head",
        Phase::Joining => "joining",
        Phase::Resuming => "looking at what is here",
        Phase::Receiving => "receiving",
        Phase::Unpacking => "unpacking",
        Phase::Verifying => "verifying",
        Phase::Done => "done",
    }
}

fn plain(phase: Option<Phase>, done: u64, total: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    let (share, rate) = (
        100.0 * done as f64 / total as f64,
        done as f64 / 1e6 / elapsed.as_secs_f64().max(1e-3),
    );
    format!(
        "{}: {share:.1} % of {}, {rate:.1} MB/s, after {}",
        phase.map_or("working", title),
        format_bytes(total),
        format_duration(elapsed)
    )
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bar() -> ProgressStyle {
    let template = "{msg} [{bar:32}] {percent:>3} % of {binary_total_bytes}  \
                    {binary_bytes_per_sec}  {eta} left";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_phase_share_and_rate() {
        let text = plain(
            Some(Phase::Receiving),
            500_000,
            1_000_000,
            Duration::from_secs(1),
        );
        assert_eq!(text, "receiving: 50.0 % of 977 KiB, 0.5 MB/s, after 1.00 s");
    }

    #[test]
    fn templates_are_valid() {
        assert!(ProgressStyle::with_template("{spinner} {msg}").is_ok());
        drop(bar());
    }
}

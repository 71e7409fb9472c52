//! How a command talks: text for people, one JSON document, or a JSON object per line.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use serde::Serialize;

use super::Global;
use super::error::{CommandError, Kind, Result};
use crate::base::event::Events;
use crate::deploy::interrupt::{Interrupt, Stop};
use crate::monitor;

/// How results are written.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// Write the result as one JSON document
    #[arg(long, conflicts_with = "json_lines")]
    json: bool,
    /// Write every event, and then the result, as a JSON object per line
    #[arg(long)]
    json_lines: bool,
}

impl OutputArgs {
    /// Whether standard output is for programs.
    pub(super) const fn is_json(self) -> bool {
        self.json || self.json_lines
    }

    /// Where events go. Standard output stays free for data unless events are the data.
    pub(super) fn events(self, global: &Global) -> Events {
        if self.json_lines {
            return monitor::json_lines(std::io::stdout());
        }
        let style = if global.quiet {
            monitor::Style::Quiet
        } else if std::io::stderr().is_terminal() {
            monitor::Style::Bar
        } else {
            monitor::Style::Lines
        };
        monitor::terminal(style)
    }

    /// Writes a result: `text` for people, or the value for programs.
    pub(super) fn result(
        self,
        name: &'static str,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) {
        if self.json {
            line(&serde_json::to_string_pretty(value));
        } else if self.json_lines {
            line(&serde_json::to_string(&Named { event: name, value }));
        } else {
            line::<std::convert::Infallible>(&Ok(text()));
        }
    }

    /// Writes a further fact, for programs that read a line at a time.
    pub(super) fn line_of(self, name: &'static str, value: &impl Serialize) {
        if self.json_lines {
            line(&serde_json::to_string(&Named { event: name, value }));
        }
    }

    /// Writes a failure for programs; people read it on standard error in any case.
    pub(super) fn failed(self, error: CommandError) -> CommandError {
        if self.json || self.json_lines {
            line(&serde_json::to_string(&error.to_json()));
        }
        error
    }
}

/// A result among events.
#[derive(Serialize)]
struct Named<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    value: &'a T,
}

/// Writes a line; a reader that has gone away is not an error.
fn line<E: std::fmt::Display>(text: &Result<String, E>) {
    match text {
        Ok(text) => drop(writeln!(std::io::stdout(), "{text}")),
        Err(error) => tracing::error!(%error, "The result could not be written as JSON"),
    }
}

/// Ends the process at the first SIGINT or SIGTERM: for nodes, whose disk is right at any moment.
pub(super) fn end_on_signal() -> Result {
    let interrupt = Interrupt::listen()?;
    let watch = move || {
        while interrupt
            .wait(std::time::Duration::from_secs(3600))
            .is_none()
        {}
        eprintln!("flashover: Stopped; what has come is kept, the same command goes on");
        std::process::exit(Kind::Interrupted as i32);
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(watch)
        .map_err(|error| CommandError::new(Kind::Internal, error))?;
    Ok(())
}

/// How a head that was stopped ends: a service manager's wish is no failure.
pub(super) fn stopped(stop: Stop) -> Result {
    match stop {
        Stop::Terminate => Ok(()),
        Stop::Interrupt => Err(CommandError::new(
            Kind::Interrupted,
            anyhow::anyhow!("Stopped by Ctrl-C"),
        )),
    }
}

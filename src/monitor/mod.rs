//! Sinks of events: what a job tells about itself becomes a progress bar, plain lines, or JSON
//! lines; counters become Prometheus text.
//!
//! A sink owns what it writes to and is called from any thread of a job.
#![forbid(unsafe_code)]

mod json;
mod metrics;
mod terminal;

pub use json::json_lines;
pub use metrics::{Sample, prometheus};
pub use terminal::{Style, terminal};

//! Sinks of events: terminal, JSON lines.

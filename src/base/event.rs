//! Events: what a job tells about itself. Jobs raise them, sinks (terminal, JSON lines, later the
//! web page) show them; the two meet only in this vocabulary.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a byte reached a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// It was here already: resumed from an earlier attempt.
    Resume,
    /// The multicast session.
    Multicast,
    /// Other nodes, and the head's seed.
    Swarm,
    /// Byte ranges of the head.
    Http,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looking for a head that has the image.
    Finding,
    /// Getting the manifest and the keys.
    Joining,
    /// Looking at what an earlier attempt left.
    Resuming,
    /// Pieces arrive and are unpacked.
    Receiving,
    /// All pieces are here; the last are being unpacked.
    Unpacking,
    /// What was written is read back and compared.
    Verifying,
    /// All is done and proven.
    Done,
}

/// One fact about a running job.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The job entered a phase.
    Phase {
        /// The phase it is in now.
        phase: Phase,
    },
    /// How far it is.
    Progress {
        /// Bytes done in this phase.
        bytes_done: u64,
        /// Bytes to do in this phase.
        bytes_total: u64,
    },
    /// Something the user may care about went wrong and was dealt with.
    Warning {
        /// What happened, why, and what was done about it.
        text: String,
    },
    /// Something the user may care about, and nothing is wrong.
    Note {
        /// What happened.
        text: String,
    },
    /// A node reported to the head.
    Node {
        /// Its host name, or its address.
        node: String,
        /// Pieces it still lacks.
        pieces_missing: u64,
        /// Share of the sender's packets that it lost, 0 to 1.
        loss: f64,
    },
}

/// Where events go. Cheap to clone; raising never blocks the job for long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends events to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event.
    #[must_use]
    pub fn ignore() -> Self {
        Self::new(drop)
    }

    /// Raises an event.
    pub fn raise(&self, event: Event) {
        (self.0)(event);
    }

    /// Raises a phase.
    pub fn phase(&self, phase: Phase) {
        self.raise(Event::Phase { phase });
    }

    /// Raises a warning.
    pub fn warn(&self, text: impl Into<String>) {
        self.raise(Event::Warning { text: text.into() });
    }

    /// Raises a note.
    pub fn note(&self, text: impl Into<String>) {
        self.raise(Event::Note { text: text.into() });
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

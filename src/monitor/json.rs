//! Events as JSON lines: one object per event, `v` is the version of the vocabulary.

use std::io::Write;
use std::sync::Mutex;

use serde::Serialize;

use crate::base::event::{Event, Events};

/// The version of the vocabulary: raised when a field changes its meaning or goes.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes every event as one line. A reader that went away is not an error of the job.
pub fn json_lines(out: impl Write + Send + 'static) -> Events {
    let out = Mutex::new(out);
    Events::new(move |event| {
        let line = Line {
            v: VERSION,
            event: &event,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        let mut out = out.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Err(error) = out.write_all(&text).and_then(|()| out.flush()) {
            tracing::debug!(%error, "An event could not be written");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event::Phase;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_event_is_one_versioned_object() {
        let out = Shared::default();
        let events = json_lines(out.clone());
        events.phase(Phase::Finding);
        events.warn("two\nlines");
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "{\"v\":1,\"event\":\"phase\",\"phase\":\"finding\"}\n\
             {\"v\":1,\"event\":\"warning\",\"text\":\"two\\nlines\"}\n"
        );
    }
}

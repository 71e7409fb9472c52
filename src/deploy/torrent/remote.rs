//! A torrent that a web server has.
//!
//! It comes by plain HTTP, which proves nothing: whoever is on the way can give another torrent, as
//! with a file from anywhere. Redirects are not followed, so that no server sends us elsewhere.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use super::Options;
use crate::deploy::error::{Error, Kind, Result};
use crate::deploy::runtime::Runtime;
use crate::deploy::swarm::plain;
use crate::swarm::Metainfo;
use crate::swarm::metainfo::TORRENT_BYTES_MAX;
use crate::swarm::tracker::TrackerUrl;

/// How long it may take, if the user gives no less.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often the wish to stop is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Fetches the torrent at a URL.
///
/// # Errors
/// If it does not come in time, or is no sound torrent.
pub(super) fn load(
    url: &TrackerUrl,
    options: &Options,
    until: Option<Instant>,
) -> Result<Metainfo> {
    let end = Instant::now() + DEADLINE;
    let end = until.map_or(end, |until| until.min(end));
    options.events.note(format!("Fetching {url}"));
    let (sender, came) = sync_channel(1);
    let (asked, runtime) = (url.clone(), Runtime::start("torrent")?);
    runtime.spawn(move || async move {
        let body = tokio::time::timeout_at(end.into(), body(&asked)).await;
        // Whoever waits for it may have been told to stop.
        drop(sender.send(body));
    })?;
    let came = loop {
        match came.recv_timeout(TICK) {
            Ok(came) => break came,
            Err(RecvTimeoutError::Timeout) if options.interrupt.get().is_some() => {
                // The task ends by its deadline; the process does not wait for it.
                runtime.leave();
                return Err(Error::text(Kind::Interrupted, "Stopped"));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::text(Kind::Internal, "A control task panicked"));
            }
        }
    };
    let late = |_| Error::text(Kind::Network, format!("{url} did not come in time"));
    let bytes = came.map_err(late)?.map_err(|error| {
        let error = error.context(format!("{url} cannot be fetched"));
        Error::new(Kind::Network, error)
    })?;
    Metainfo::parse(&bytes).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("{url} is no sound torrent"));
        Error::new(Kind::Usage, error)
    })
}

async fn body(url: &TrackerUrl) -> anyhow::Result<Vec<u8>> {
    let mut sender = plain::open(url).await?;
    let response = plain::get(&mut sender, url, url.path(), None).await?;
    let status = response.status();
    let hint = if status.is_redirection() {
        ": redirects are not followed"
    } else {
        ""
    };
    anyhow::ensure!(
        status == StatusCode::OK,
        "The server answers {status}{hint}"
    );
    plain::collect(response, TORRENT_BYTES_MAX).await
}

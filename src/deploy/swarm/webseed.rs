//! Fetching pieces from web seeds, as [`WebSeeds`](crate::swarm::webseed::WebSeeds) orders them.
//!
//! [`run`] takes orders and tells of each exactly once how it ended: with bytes, or why without.
//! Whether the bytes are those of the piece is for the owner to find out. What is in memory at a
//! time is bounded ([`BYTES_MAX`]), and so is how long a server may say nothing. Redirects are not
//! followed. Connections are kept and used again.
//!
//! Source: BEP 19; RFC 9110 section 14.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::{AbortHandle, JoinSet};

use super::plain;
use crate::base::PieceIndex;
use crate::swarm::tracker::TrackerUrl;
use crate::swarm::webseed::{FETCHES_PER_SEED_MAX, Fetch, Outcome, Request, SEEDS_MAX, SeedIndex};

/// Bytes of pieces in memory at a time; one piece that is larger is fetched alone.
pub const BYTES_MAX: usize = 64 << 20;
/// How long a server may say nothing.
pub const SILENCE_DEADLINE: Duration = Duration::from_secs(15);
/// How long one piece may take.
pub const PIECE_DEADLINE: Duration = Duration::from_secs(300);
/// Idle connections that are kept.
const IDLE_MAX: usize = SEEDS_MAX * FETCHES_PER_SEED_MAX;

/// What the owner wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Fetch a piece.
    Fetch(Fetch),
    /// Do not: it has come from elsewhere. It ends as [`Outcome::Cancelled`], if it has not ended.
    Cancel(SeedIndex, PieceIndex),
}

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The server.
    pub seed: SeedIndex,
    /// The piece.
    pub piece: PieceIndex,
    /// Its bytes, not verified; or [`Outcome::Unavailable`], [`Outcome::Unsuitable`] or
    /// [`Outcome::Cancelled`].
    pub bytes: Result<Vec<u8>, Outcome>,
}

/// Why a request brought nothing.
#[derive(Debug)]
enum Failure {
    /// Trying again can help.
    Passing(anyhow::Error),
    /// It cannot.
    Lasting(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Passing(error.into())
    }
}

/// Fetches until the owner orders no more; what is under way then is dropped.
pub async fn run(mut orders: Receiver<Order>, ended: Sender<Ended>) {
    let fetcher = Arc::new(Fetcher::new());
    let mut running = JoinSet::new();
    let mut under_way: BTreeMap<(SeedIndex, PieceIndex), AbortHandle> = BTreeMap::new();
    loop {
        let one = tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Fetch(fetch)) => {
                    let (key, fetcher) = ((fetch.seed, fetch.piece), Arc::clone(&fetcher));
                    let task = async move { (key, fetcher.fetch(&fetch).await) };
                    under_way.insert(key, running.spawn(task));
                    continue;
                }
                Some(Order::Cancel(seed, piece)) => {
                    let Some(task) = under_way.remove(&(seed, piece)) else {
                        continue;
                    };
                    task.abort();
                    let bytes = Err(Outcome::Cancelled);
                    Ended { seed, piece, bytes }
                }
            },
            Some(done) = running.join_next() => {
                // A task that was cancelled has been told of.
                let Ok(((seed, piece), bytes)) = done else {
                    continue;
                };
                if under_way.remove(&(seed, piece)).is_none() {
                    continue;
                }
                Ended { seed, piece, bytes }
            }
        };
        if ended.send(one).await.is_err() {
            return;
        }
    }
}

struct Fetcher {
    /// Kibibytes that may still be in memory.
    room: Semaphore,
    /// Connections that wait for their next request, by host and port.
    idle: Mutex<Vec<(String, plain::Sender)>>,
}

const KIBIBYTES_MAX: usize = BYTES_MAX >> 10;

impl Fetcher {
    const fn new() -> Self {
        Self {
            room: Semaphore::const_new(KIBIBYTES_MAX),
            idle: Mutex::new(Vec::new()),
        }
    }

    async fn fetch(&self, fetch: &Fetch) -> Result<Vec<u8>, Outcome> {
        let kibibytes = fetch.len.div_ceil(1 << 10).clamp(1, KIBIBYTES_MAX);
        let kibibytes = u32::try_from(kibibytes).expect("it is bounded by a small constant");
        let permit = self.room.acquire_many(kibibytes).await;
        let _permit = permit.map_err(|_| Outcome::Unavailable)?;
        let fetched = tokio::time::timeout(PIECE_DEADLINE, self.piece(fetch)).await;
        let late = |_| {
            Err(Failure::Passing(anyhow::anyhow!(
                "The piece takes too long"
            )))
        };
        fetched.unwrap_or_else(late).map_err(|failure| {
            let (error, outcome) = match failure {
                Failure::Passing(error) => (error, Outcome::Unavailable),
                Failure::Lasting(error) => (error, Outcome::Unsuitable),
            };
            let url = fetch.requests.first().map_or("", |request| &request.url);
            let piece = fetch.piece;
            tracing::info!(url, %piece, %error, ?outcome, "A web seed gives no piece");
            outcome
        })
    }

    async fn piece(&self, fetch: &Fetch) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; fetch.len];
        for request in &fetch.requests {
            let len = usize::try_from(request.range.end - request.range.start)?;
            let place = bytes
                .get_mut(request.at..)
                .and_then(|rest| rest.get_mut(..len));
            let place = place.ok_or_else(|| anyhow::anyhow!("The order does not fit the piece"))?;
            self.part(request, place).await?;
        }
        Ok(bytes)
    }

    /// Fetches one range; on a kept connection first, which may be dead.
    async fn part(&self, request: &Request, place: &mut [u8]) -> Result<(), Failure> {
        let url: TrackerUrl = request.url.parse().map_err(|error| {
            let error = anyhow::Error::new::<crate::swarm::tracker::url::BadUrl>(error);
            Failure::Lasting(error)
        })?;
        let here = url.authority();
        if let Some(mut kept) = self.take(&here)
            && let Ok(response) = ask(&mut kept, &url, &request.range).await
        {
            read(response, &request.range, place).await?;
            self.keep(here, kept);
            return Ok(());
        }
        let mut sender = plain::open(&url).await?;
        let response = ask(&mut sender, &url, &request.range).await?;
        read(response, &request.range, place).await?;
        self.keep(here, sender);
        Ok(())
    }

    fn take(&self, here: &str) -> Option<plain::Sender> {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(other, _)| other == here)?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, here: String, sender: plain::Sender) {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push((here, sender));
        }
    }
}

async fn ask(
    sender: &mut plain::Sender,
    url: &TrackerUrl,
    range: &Range<u64>,
) -> anyhow::Result<Response<Incoming>> {
    let range = format!("bytes={}-{}", range.start, range.end - 1);
    let asked = plain::get(sender, url, url.path(), Some(&range));
    tokio::time::timeout(SILENCE_DEADLINE, asked).await?
}

/// Reads the body of an answer into its place, if it is the range that was asked for.
async fn read(
    response: Response<Incoming>,
    range: &Range<u64>,
    place: &mut [u8],
) -> Result<(), Failure> {
    judge(&response, range)?;
    let mut body = response.into_body();
    let mut at = 0;
    while let Some(frame) = tokio::time::timeout(SILENCE_DEADLINE, body.frame()).await? {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let part = place.get_mut(at..at + data.len());
        let longer = || Failure::Lasting(anyhow::anyhow!("The answer is longer than its range"));
        part.ok_or_else(longer)?.copy_from_slice(&data);
        at += data.len();
    }
    if at == place.len() {
        Ok(())
    } else {
        Err(anyhow::anyhow!("The answer stopped after {at} bytes").into())
    }
}

/// Whether an answer has the bytes that were asked for. A server that does no ranges is good for a
/// file that is asked for whole.
fn judge(response: &Response<Incoming>, range: &Range<u64>) -> Result<(), Failure> {
    let lasting = |text: String| Err(Failure::Lasting(anyhow::Error::msg(text)));
    let status = response.status();
    let text = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let said = text(header::CONTENT_RANGE).unwrap_or_default();
            let wanted = format!("bytes {}-{}/", range.start, range.end - 1);
            if said.starts_with(&wanted) {
                Ok(())
            } else {
                lasting(format!("Asked for {wanted}, it gives {said}"))
            }
        }
        StatusCode::OK => {
            let len = text(header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
            if range.start == 0 && len == Some(range.end) {
                Ok(())
            } else {
                lasting("The server does no ranges".to_owned())
            }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(anyhow::anyhow!("The server answers {status}").into())
        }
        _ if status.is_server_error() => Err(anyhow::anyhow!("The server answers {status}").into()),
        _ => lasting(format!("The server answers {status}")),
    }
}

#[cfg(test)]
mod tests;

//! Pieces from the torrent's web seeds, beside those from peers.
//!
//! The owner says when servers are to be asked. While one fetches a piece, peers are not to be
//! asked for it ([`Web::wanted`]); a piece that came is verified and written here, and told by the
//! owner to whom it may concern. A server that gives wrong bytes is not asked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::Receiver;
use tokio::sync::mpsc;

use super::Options;
use super::content::Content;
use crate::base::event::Events;
use crate::base::{Bitmap, PieceIndex, Time};
use crate::deploy::error::{Kind, OrKind as _, Result};
use crate::deploy::runtime::Runtime;
use crate::deploy::swarm::webseed::{self, BYTES_MAX, Ended, Order};
use crate::image::verify::Verify as _;
use crate::swarm::Metainfo;
use crate::swarm::cap::Cap;
use crate::swarm::webseed::{FETCHES_PER_SEED_MAX, Outcome, SEEDS_MAX, SeedIndex, WebSeeds};

/// Orders that may wait: one for every fetch, and one to cancel it.
const ORDERS_MAX: usize = 2 * SEEDS_MAX * FETCHES_PER_SEED_MAX;

/// See the module; dropping it ends what is under way.
pub(super) struct Web {
    torrent: Arc<Metainfo>,
    content: Content,
    events: Events,
    seeds: WebSeeds,
    /// What is being fetched.
    under_way: BTreeMap<PieceIndex, SeedIndex>,
    /// Peers were not told of the latest change of that.
    is_news: bool,
    bytes_under_way: usize,
    cap: Cap,
    bytes: u64,
    origin: Instant,
    orders: mpsc::Sender<Order>,
    ended: Receiver<Ended>,
    /// After the channels: its end is not waited for by anybody.
    _runtime: Runtime,
}

impl Web {
    /// Prepares to ask the web seeds at `urls`; `None` if there are none of a kind that is known.
    ///
    /// # Errors
    /// If a thread cannot be had.
    pub(super) fn start(
        torrent: &Arc<Metainfo>,
        content: &Content,
        urls: Vec<String>,
        options: &Options,
    ) -> Result<Option<Self>> {
        let seed = u64::from_be_bytes(crate::deploy::random()?);
        let named = urls.len();
        let seeds = WebSeeds::new(urls, seed, Time::ZERO);
        if !seeds.is_usable() {
            tracing::debug!(named, "There are no web seeds that can be asked");
            return Ok(None);
        }
        let (orders, receives) = mpsc::channel(ORDERS_MAX);
        // It holds no more than is ordered.
        let (tells, ended) = crossbeam::channel::unbounded();
        let runtime = Runtime::start("web seeds")?;
        runtime.spawn(move || async move {
            let (ends, mut done) = mpsc::channel::<Ended>(1);
            let passing = async {
                while let Some(one) = done.recv().await {
                    // The owner may be gone.
                    drop(tells.send(one));
                }
            };
            tokio::join!(webseed::run(receives, ends), passing);
        })?;
        Ok(Some(Self {
            torrent: Arc::clone(torrent),
            content: content.clone(),
            events: options.events.clone(),
            seeds,
            under_way: BTreeMap::new(),
            is_news: false,
            bytes_under_way: 0,
            cap: Cap::new(options.down_max),
            bytes: 0,
            origin: Instant::now(),
            orders,
            ended,
            _runtime: runtime,
        }))
    }

    /// Where the ends of fetches come; each goes to [`Web::take`].
    pub(super) const fn ended(&self) -> &Receiver<Ended> {
        &self.ended
    }

    /// Bytes of pieces that came and were right.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Orders as many pieces as servers may be asked for; `have` are those that are here.
    pub(super) fn order(&mut self, have: &Bitmap) {
        let layout = self.torrent.info().layout();
        let piece_length = layout.piece_length();
        let now = self.now();
        loop {
            let has_room = self.bytes_under_way + piece_length as usize <= BYTES_MAX;
            if !has_room && !self.under_way.is_empty() {
                return;
            }
            if self.cap.pass(piece_length, now).is_err() {
                return;
            }
            let Some(fetch) = self.seeds.poll(self.torrent.info(), have, now) else {
                return self.cap.give_back(piece_length);
            };
            let (seed, piece, len) = (fetch.seed, fetch.piece, fetch.len);
            if self.orders.try_send(Order::Fetch(fetch)).is_err() {
                return self.seeds.ended(seed, piece, Outcome::Cancelled, now);
            }
            self.under_way.insert(piece, seed);
            self.bytes_under_way += len;
            self.is_news = true;
        }
    }

    /// A piece came from a peer: no server need bring it.
    pub(super) fn cancel(&mut self, piece: PieceIndex) {
        if let Some(&seed) = self.under_way.get(&piece) {
            // Without room for the word it comes twice, which is no harm.
            drop(self.orders.try_send(Order::Cancel(seed, piece)));
        }
    }

    /// Takes what a fetch brought; gives the piece if it is new, right and written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn take(&mut self, ended: Ended, have: &Bitmap) -> Result<Option<PieceIndex>> {
        let Ended { seed, piece, bytes } = ended;
        let layout = self.torrent.info().layout();
        if self.under_way.remove(&piece).is_some() {
            self.bytes_under_way -= layout.piece_len(piece) as usize;
            self.is_news = true;
        }
        let outcome = match &bytes {
            Ok(bytes) if self.torrent.verify(piece, bytes) => Outcome::Verified,
            Ok(_) => Outcome::Corrupt,
            Err(outcome) => *outcome,
        };
        let url = self.seeds.url(seed);
        match outcome {
            Outcome::Corrupt => self.events.warn(format!(
                "{url}: {piece} was wrong: this web seed is not asked any more"
            )),
            Outcome::Unsuitable => self.events.warn(format!(
                "{url} does not give {piece}: this web seed is not asked any more"
            )),
            Outcome::Verified | Outcome::Unavailable | Outcome::Cancelled => {}
        }
        self.seeds.ended(seed, piece, outcome, self.now());
        let Some(bytes) = bytes.ok().filter(|_| outcome == Outcome::Verified) else {
            return Ok(None);
        };
        if have.get(piece.as_usize()) {
            return Ok(None);
        }
        let place = layout.piece_range(piece).start;
        self.content
            .write_at(&bytes, place)
            .or_kind_with(Kind::Storage, || format!("{piece} could not be written"))?;
        self.bytes += bytes.len() as u64;
        Ok(Some(piece))
    }

    /// The pieces that peers may be asked for, if that has changed since it was said.
    pub(super) fn wanted(&self) -> Option<Bitmap> {
        if !self.is_news {
            return None;
        }
        let mut wanted = Bitmap::full(self.torrent.info().layout().piece_count() as usize);
        for piece in self.under_way.keys() {
            wanted.clear(piece.as_usize());
        }
        Some(wanted)
    }

    /// That was said.
    pub(super) const fn told(&mut self) {
        self.is_news = false;
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }
}

//! The node's end of the multicast: a receiver machine on a thread of its own.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::Fact;
use crate::base::counter::Counters;
use crate::base::{Bitmap, NodeId};
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::net::{self, NetOptions};
use crate::deploy::store::PieceStore;
use crate::engine::{Arena, Commands, Driver, Mailbox, Setup, Socket, mailbox};
use crate::fec::RaptorQ;
use crate::image::Manifest;
use crate::multicast::receiver::{Command, Event, Stats};
use crate::multicast::{Aes128Gcm, PieceHashes, Receiver, ReceiverConfig, Secret, Session};

/// Memory of pieces in flight.
const ARENA_BYTES: usize = 64 << 20;
/// The fewest blocks that a receiver works with.
const BLOCKS_MIN: usize = 4;
/// How long the last reports are waited for.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);

/// What the multicast thread tells the job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    /// How the kernel is asked.
    Backend(&'static str),
    /// A piece is verified and stored.
    Stored(crate::base::PieceIndex),
    /// A piece decoded to wrong bytes.
    Poisoned {
        /// Which.
        piece: crate::base::PieceIndex,
        /// The receiver gives it up.
        abandoned: bool,
    },
    /// A piece could not be written.
    DiskFailed {
        /// Which.
        piece: crate::base::PieceIndex,
        /// Why.
        error: crate::machine::DiskError,
        /// The receiver gives it up.
        abandoned: bool,
    },
    /// The sender may have started anew.
    UnknownEpoch,
    /// Somebody sends in the head's name.
    Insider,
    /// Nothing comes.
    Silent,
    /// Something comes.
    Alive,
    /// This node is served last.
    Demoted,
    /// The sender ended the session.
    Closed,
    /// How it goes.
    Stats(Stats),
    /// The thread has ended by itself.
    Failed(String),
}

/// The thread; dropping it ends it at once.
#[derive(Debug)]
pub(super) struct Listening {
    session: Session,
    secret: Secret,
    mailbox: Mailbox<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is started with.
pub(super) struct Start<'a> {
    pub(super) session: Session,
    pub(super) secret: Secret,
    pub(super) head: IpAddr,
    pub(super) manifest: &'a Manifest,
    pub(super) store: &'a PieceStore,
    pub(super) have: Bitmap,
    pub(super) net: &'a NetOptions,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) facts: &'a Sender<Fact>,
}

impl Listening {
    /// Joins the group and starts the thread.
    ///
    /// # Errors
    /// If the group cannot be joined, or memory or a thread cannot be had.
    pub(super) fn start(start: &Start<'_>) -> Result<Self> {
        let session = start.session;
        let interface = start.net.interface_towards(start.head)?;
        let group =
            Socket::multicast_receiver(session.group, None, &interface).or_kind(Kind::Network)?;
        let any = crate::engine::net::any_address(start.head, 0);
        let reports = Socket::unicast(any).or_kind(Kind::Network)?;
        let verify = PieceHashes::new(session.geometry, start.manifest.pieces.clone())
            .ok_or_else(|| Error::text(Kind::Integrity, "The session is not of this bundle"))?;
        let config = ReceiverConfig {
            session,
            secret: start.secret.clone(),
            reports_to: SocketAddr::new(start.head, session.report_port),
            node: NodeId(crate::deploy::random()?),
            host: net::host_name(),
            seed: u64::from_be_bytes(crate::deploy::random()?),
            receive_buffer_bytes: group.receive_bytes() as u64,
            have: start.have.clone(),
        };
        let piece_size = session.geometry.piece_size();
        let count = (ARENA_BYTES / piece_size)
            .min(session.geometry.piece_count() as usize + BLOCKS_MIN)
            .max(BLOCKS_MIN);
        let arena = Arena::new(piece_size, count).or_kind(Kind::Internal)?;
        let counters = Arc::clone(start.counters);
        let setup = Setup {
            sockets: vec![group, reports],
            listeners: Vec::new(),
            files: vec![start.store.file().try_clone().or_kind(Kind::Storage)?],
            arena: Some(arena.clone()),
            ways: start.net.ways,
            counters: Arc::clone(&counters),
        };
        let make = move || {
            let blocks = Box::new(arena);
            Receiver::new(config, RaptorQ::new(), Aes128Gcm, verify, blocks, counters)
        };
        let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
        let facts = start.facts.clone();
        let thread = std::thread::Builder::new()
            .name("multicast".to_owned())
            .spawn(move || run(setup, make, &commands, &facts))
            .or_kind(Kind::Internal)?;
        Ok(Self {
            session,
            secret: start.secret.clone(),
            mailbox,
            thread: Some(thread),
        })
    }

    /// Whether this thread receives exactly this.
    pub(super) fn is(&self, session: &Session, secret: &Secret) -> bool {
        self.session == *session && self.secret == *secret
    }

    /// Says that a piece came another way.
    pub(super) fn have(&self, piece: crate::base::PieceIndex) {
        // A machine that missed it would only store the piece once more.
        drop(self.mailbox.send(Command::Have(piece)));
    }

    /// Goes on under the key of the sender's new start, if only that changed.
    pub(super) fn rekey(&mut self, session: &Session, secret: &Secret, head: IpAddr) -> bool {
        let same = Session {
            epoch: session.epoch,
            report_port: session.report_port,
            ..self.session
        };
        if same != *session || self.session.epoch == session.epoch {
            return false;
        }
        let key = Command::Key {
            epoch: session.epoch,
            secret: secret.clone(),
            reports_to: SocketAddr::new(head, session.report_port),
        };
        if self.mailbox.send(key).is_err() {
            return false;
        }
        (self.session, self.secret) = (*session, secret.clone());
        true
    }

    /// Begins to end with the last reports, which let the sender forget this node at once.
    pub(super) fn farewell(self) -> Leaving {
        let until = match self.mailbox.send(Command::Stop) {
            Ok(()) => Instant::now() + FAREWELL_PATIENCE,
            Err(_) => Instant::now(),
        };
        Leaving {
            listening: self,
            until,
        }
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// A thread that says goodbye meanwhile; dropping it waits for that, a moment at most.
#[derive(Debug)]
pub(super) struct Leaving {
    listening: Listening,
    until: Instant,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        while Instant::now() < self.until && !self.listening.is_over() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The multicast thread had panicked");
        }
    }
}

fn run(
    setup: Setup,
    make: impl FnOnce() -> Receiver,
    commands: &Commands<Command>,
    facts: &Sender<Fact>,
) {
    let driven = Driver::new(setup).and_then(|mut driver| {
        // The job may have ended: then there is nobody to tell, here and below.
        drop(facts.send(Fact::Heard(Heard::Backend(driver.backend()))));
        let mut machine = make();
        driver.run(&mut machine, commands, |event| tell(event, facts))
    });
    if let Err(error) = driven {
        let text = anyhow::Error::new(error);
        drop(facts.send(Fact::Heard(Heard::Failed(format!("{text:#}")))));
    }
}

fn tell(event: Event, facts: &Sender<Fact>) -> ControlFlow<()> {
    let heard = match event {
        Event::PieceStored { piece, block, .. } => {
            drop(block);
            Heard::Stored(piece)
        }
        Event::PiecePoisoned { piece, abandoned } => Heard::Poisoned { piece, abandoned },
        Event::DiskFailed {
            piece,
            error,
            abandoned,
        } => Heard::DiskFailed {
            piece,
            error,
            abandoned,
        },
        Event::UnknownEpoch(_) => Heard::UnknownEpoch,
        Event::Insider => Heard::Insider,
        Event::Silent { .. } => Heard::Silent,
        Event::Alive => Heard::Alive,
        Event::Demoted => Heard::Demoted,
        Event::Closed => Heard::Closed,
        Event::Stats(stats) => Heard::Stats(stats),
        Event::Complete => return ControlFlow::Continue(()),
        Event::Stopped => return ControlFlow::Break(()),
    };
    match facts.send(Fact::Heard(heard)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

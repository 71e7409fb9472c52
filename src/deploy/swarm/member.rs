//! A torrent on a thread of its own: what the machine is given of the kernel, and how its owner
//! speaks to it. What it tells goes to the function that its owner gave.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::files::Files;
use super::spread::Spread;
use crate::base::counter::Counters;
use crate::deploy::error::{Kind, OrKind as _, Result};
use crate::engine::net::Listener;
use crate::engine::{Arena, Commands, Driver, Mailbox, Setup, Ways, mailbox};
use crate::image::verify::Verify;
use crate::machine::Machine;
use crate::swarm::cut::Cut;
use crate::swarm::torrent::{Command, Config, Event, Torrent};

/// Pieces in memory, at least.
const BLOCKS_MIN: usize = 4;
/// How long connections may take to end.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// What a torrent is started with; `F` is the one file of its bytes, or [`Files`].
pub(crate) struct Start<V, F = File> {
    /// What the machine is given; where it listens and how many blocks it has is found here.
    pub(crate) config: Config,
    /// Where peers connect.
    pub(crate) listener: Listener,
    /// The bytes of the torrent.
    pub(crate) file: F,
    /// Memory for pieces, at most, but for a few.
    pub(crate) memory_bytes: usize,
    /// How the kernel may be asked.
    pub(crate) ways: Ways,
    /// How pieces are judged.
    pub(crate) verify: V,
}

impl<V, F> Start<V, F> {
    fn take(self) -> (F, Start<V, ()>) {
        let rest = Start {
            config: self.config,
            listener: self.listener,
            file: (),
            memory_bytes: self.memory_bytes,
            ways: self.ways,
            verify: self.verify,
        };
        (self.file, rest)
    }
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// How the kernel is asked.
    Backend(&'static str),
    /// What the machine tells.
    Event(Event),
    /// The thread has ended by itself.
    Failed(String),
}

/// The running torrent; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Member {
    listens_on: SocketAddr,
    mailbox: Mailbox<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Starts the thread. `tell` is called on it and may wait until the owner drops what it waits
    /// for; when it breaks off, the thread ends.
    ///
    /// # Errors
    /// If memory or a thread cannot be had.
    pub(crate) fn start<V: Verify + Send + 'static>(
        start: Start<V>,
        tell: impl FnMut(Told) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Self> {
        let (file, start) = start.take();
        Self::launch(start, vec![file], |torrent| torrent, tell)
    }

    /// As [`Member::start`], for a torrent of many files.
    ///
    /// # Errors
    /// If memory or a thread cannot be had.
    pub(crate) fn start_spread<V: Verify + Send + 'static>(
        start: Start<V, Arc<Files>>,
        tell: impl FnMut(Told) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Self> {
        let (files, start) = start.take();
        Self::launch(
            start,
            Vec::new(),
            |torrent| Spread::new(torrent, files),
            tell,
        )
    }

    fn launch<V, M>(
        start: Start<V, ()>,
        files: Vec<File>,
        wrap: impl FnOnce(Torrent<V>) -> M + Send + 'static,
        mut tell: impl FnMut(Told) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Self>
    where
        V: Verify + Send + 'static,
        M: Machine<Command = Command, Event = Event>,
    {
        let cut = start.config.cut;
        let listens_on = start.listener.local();
        let count = blocks_of(cut, start.memory_bytes);
        let config = Config {
            listen_port: Some(listens_on.port()),
            blocks_max: count,
            ..start.config
        };
        let arena = Arena::new(cut.piece_bytes() as usize, count).or_kind(Kind::Internal)?;
        let setup = Setup {
            sockets: Vec::new(),
            listeners: vec![start.listener],
            files,
            arena: Some(arena.clone()),
            ways: start.ways,
            counters: Arc::new(Counters::default()),
        };
        let verify = start.verify;
        let make = move || wrap(Torrent::new(config, verify, Box::new(arena)));
        let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
        let thread = std::thread::Builder::new()
            .name("torrent".to_owned())
            .spawn(move || run(setup, make, &commands, &mut tell))
            .or_kind(Kind::Internal)?;
        Ok(Self {
            listens_on,
            mailbox,
            thread: Some(thread),
        })
    }

    /// Where peers connect.
    pub(crate) const fn listens_on(&self) -> SocketAddr {
        self.listens_on
    }

    /// What others may tell the machine by.
    pub(crate) const fn mailbox(&self) -> &Mailbox<Command> {
        &self.mailbox
    }

    /// Tells the machine something; false if it is gone, or too far behind.
    pub(crate) fn tell(&self, command: Command) -> bool {
        self.mailbox.send(command).is_ok()
    }

    /// Whether the thread has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let until = Instant::now() + FAREWELL_PATIENCE;
        if self.tell(Command::Stop) {
            while !self.is_over() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread of a torrent had panicked");
        }
    }
}

/// How many pieces may be in memory.
fn blocks_of(cut: Cut, memory_bytes: usize) -> usize {
    let fit = memory_bytes / cut.piece_bytes() as usize;
    fit.min(cut.piece_count() as usize + BLOCKS_MIN)
        .max(BLOCKS_MIN)
}

fn run<M: Machine<Command = Command, Event = Event>>(
    setup: Setup,
    make: impl FnOnce() -> M,
    commands: &Commands<Command>,
    tell: &mut impl FnMut(Told) -> ControlFlow<()>,
) {
    let driven = Driver::new(setup).and_then(|mut driver| {
        if tell(Told::Backend(driver.backend())).is_break() {
            return Ok(());
        }
        let mut machine = make();
        driver.run(&mut machine, commands, |event| {
            let is_over = event == Event::Stopped;
            match tell(Told::Event(event)) {
                ControlFlow::Continue(()) if !is_over => ControlFlow::Continue(()),
                ControlFlow::Continue(()) | ControlFlow::Break(()) => ControlFlow::Break(()),
            }
        })
    });
    if let Err(error) = driven {
        let text = anyhow::Error::new(error);
        // The owner may be gone: then nobody need know.
        let _flow = tell(Told::Failed(format!("{text:#}")));
    }
}

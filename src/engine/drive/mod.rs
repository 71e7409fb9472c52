//! The loop that runs one machine on the calling thread, over sockets and files.
//!
//! ```text
//!   Mailbox ──commands──►┐                         ┌──► sends  (staging slots)
//!   sockets ──datagrams─►├─► Machine::handle ──────┼──► disk operations
//!   streams ──bytes─────►│                         ├──► stream operations
//!   disk ────results────►│      poll_transmit      └──► events (to the job's function)
//!   clock ───timeout────►┘      poll_output
//! ```
//!
//! The driver owns the sockets, the files and every byte in flight; the machine owns the protocol.
//! Each turn has bounded work of every kind, so neither sending nor receiving starves the other,
//! and a stop is seen after one turn. [`Io`] is the seam between the loop and how the kernel is
//! asked: the ring, or plain system calls.
#![forbid(unsafe_code)]

pub(super) mod burst;
mod channels;
mod plain;
mod streams;
#[cfg(test)]
mod tests;
mod uring;

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::channels::Batches;
use self::channels::Channels;
use self::plain::Plain;
use self::streams::{Options, Streams};
use self::uring::Uring;
use super::disk::is_in_memory;
use super::error::{Error, ErrorKind, Result};
use super::limits::{
    BLOCKED_SLEEP_MIN, CHANNELS_MAX, COMMANDS_PER_TURN, FINISH_PATIENCE, INPUTS_PER_TURN,
    OUTPUTS_PER_TURN, SEGMENTS_MAX, SENDS_PER_TURN, SLEEP_MAX, TIMER_SLACK_NANOS,
};
use super::mailbox::Commands;
use super::net::{Listener, Socket};
use super::pool::Arena;
use super::ring::{Orders, Ring};
use super::ways::{Backend, Way, Ways};
use crate::base::{Counters, Time};
use crate::machine::{
    Datagrams, DiskDone, DiskOp, Input, Machine, Output, StreamInput, StreamOp, Transmit,
};

/// What a driver is made of.
#[derive(Debug)]
pub struct Setup {
    /// The machine's sockets: `Channel(i)` is the `i`-th, at most 256.
    pub sockets: Vec<Socket>,
    /// Where others may connect to the machine. It may open streams itself without any.
    pub listeners: Vec<Listener>,
    /// The machine's files: `FileId(i)` is the `i`-th, at most 256.
    pub files: Vec<File>,
    /// The memory of the machine's blocks, for the ring to know; others work too, a little slower.
    pub arena: Option<Arena>,
    /// How the kernel may be asked.
    pub ways: Ways,
    /// Where traffic is counted.
    pub counters: Arc<Counters>,
}

/// Runs one machine on the calling thread.
///
/// It stays on the thread that made it, because a ring has a single issuer.
pub struct Driver {
    io: Box<dyn Io>,
    /// The one in use.
    backend: Backend,
    origin: Instant,
    files_count: usize,
    channels_count: usize,
    listens_on: Vec<SocketAddr>,
    notes: Vec<String>,
}

impl Driver {
    /// Prepares sockets, files and memory; nothing moves yet.
    ///
    /// # Errors
    /// When there are too many sockets or files, memory is short, or the ring was asked for and
    /// this kernel has none.
    pub fn new(setup: Setup) -> Result<Self> {
        if setup.sockets.len() > CHANNELS_MAX || setup.files.len() > CHANNELS_MAX {
            let context = format!("A driver takes at most {CHANNELS_MAX} sockets and files");
            return Err(Error::new(ErrorKind::Setup, context));
        }
        let files_count = setup.files.len();
        let channels_count = setup.sockets.len();
        let listens_on = setup.listeners.iter().map(Listener::local).collect();
        let (io, backend, notes) = open(setup)?;
        Ok(Self {
            io,
            backend,
            origin: Instant::now(),
            files_count,
            channels_count,
            listens_on,
            notes,
        })
    }

    /// How the kernel is asked: `"ring"` or `"plain"`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match self.backend {
            Backend::Ring => "ring",
            Backend::Auto | Backend::Plain => "plain",
        }
    }

    /// Where others may connect to the machine.
    #[must_use]
    pub fn listens_on(&self) -> &[SocketAddr] {
        &self.listens_on
    }

    /// How the kernel is asked at the moment; for sends and receives, on the slowest socket.
    #[must_use]
    pub fn ways(&self) -> Ways {
        let (send, receive) = self.io.channels().ways();
        Ways {
            backend: self.backend,
            send,
            receive,
        }
    }

    /// What was wanted and not granted, a sentence each: it works without, only slower.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The time that the machine sees: since this driver was made.
    #[must_use]
    pub fn now(&self) -> Time {
        now(self.origin)
    }

    /// Runs the machine until `on_event` breaks or somebody calls [`super::Mailbox::stop`].
    ///
    /// At the end, sends and disk operations on their way are waited for, for a few seconds at
    /// most; what they would have told the machine is dropped.
    ///
    /// # Errors
    /// When the kernel no longer lets the thread wait or a socket keeps failing. What happens to a
    /// single datagram or disk operation is never an error of the driver.
    ///
    /// # Panics
    /// When the machine breaks the contract: a channel, file or length out of range.
    pub fn run<M: Machine>(
        &mut self,
        machine: &mut M,
        commands: &Commands<M::Command>,
        mut on_event: impl FnMut(M::Event) -> ControlFlow<()>,
    ) -> Result<()> {
        // Machines pace themselves in tens of microseconds; the usual slack is 50. Without it, the
        // pace is only rougher.
        let _rougher = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NANOS));
        self.io.start(commands.wake_fd())?;
        let ended = self.turns(machine, commands, &mut on_event);
        self.io.finish(FINISH_PATIENCE);
        ended
    }

    fn turns<M: Machine>(
        &mut self,
        machine: &mut M,
        commands: &Commands<M::Command>,
        on_event: &mut impl FnMut(M::Event) -> ControlFlow<()>,
    ) -> Result<()> {
        while !commands.stopped() {
            let mut turn = Turn::default();
            if self
                .tell(machine, commands, &mut turn, on_event)?
                .is_break()
            {
                return Ok(());
            }
            let patience = if commands.waiting() || turn.is_spent() {
                Duration::ZERO
            } else {
                let least = if turn.is_blocked {
                    BLOCKED_SLEEP_MIN
                } else {
                    Duration::ZERO
                };
                machine
                    .poll_timeout()
                    .map_or(SLEEP_MAX, |at| (at - self.now()).clamp(least, SLEEP_MAX))
            };
            self.io.wait(patience)?;
            for _ in 0..INPUTS_PER_TURN {
                let Some(arrival) = self.io.next()? else {
                    break;
                };
                let input = match arrival {
                    Arrival::Datagrams(datagrams) => Input::Datagrams(datagrams),
                    Arrival::Disk(done) => Input::Disk(done),
                    Arrival::Stream(input) => Input::Stream(input),
                };
                machine.handle(input, now(self.origin));
                if self.ask(machine, &mut turn, on_event)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives the machine its commands and its timeout, if due.
    fn tell<M: Machine>(
        &mut self,
        machine: &mut M,
        commands: &Commands<M::Command>,
        turn: &mut Turn,
        on_event: &mut impl FnMut(M::Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = commands.take() else {
                break;
            };
            machine.handle(Input::Command(command), self.now());
            if self.ask(machine, turn, on_event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let now = self.now();
        if machine.poll_timeout().is_some_and(|at| at <= now) {
            machine.handle(Input::Timeout, now);
        }
        self.ask(machine, turn, on_event)
    }

    /// Takes from the machine what it wants sent, moved and told.
    fn ask<M: Machine>(
        &mut self,
        machine: &mut M,
        turn: &mut Turn,
        on_event: &mut impl FnMut(M::Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        while turn.sends > 0 {
            let slot = self.io.slot();
            turn.is_blocked = slot.is_none();
            let Some(slot) = slot else {
                break;
            };
            let slot_len = slot.len();
            let Some(transmit) = machine.poll_transmit(now(self.origin), slot) else {
                break;
            };
            turn.sends -= 1;
            self.check(&transmit, slot_len);
            if transmit.len > 0 {
                self.io.send(transmit);
            }
        }
        while turn.outputs > 0 {
            match machine.poll_output() {
                None => break,
                Some(Output::Event(event)) => {
                    if on_event(event).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Some(Output::Stream(op)) => self.io.stream(op)?,
                Some(Output::Disk(op)) => {
                    let known = usize::from(op.file.0) < self.files_count;
                    assert!(known, "a machine names one of its files");
                    self.io.disk(op);
                }
            }
            turn.outputs -= 1;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check(&self, transmit: &Transmit, slot_len: usize) {
        let known = usize::from(transmit.channel.0) < self.channels_count;
        assert!(known, "a machine names one of its sockets");
        assert!(transmit.len <= slot_len, "a machine stays in its buffer");
        assert!(transmit.segment_size > 0, "a datagram has a size");
        let segments = transmit.len.div_ceil(transmit.segment_size);
        assert!(
            segments <= SEGMENTS_MAX,
            "a burst is within the kernel's limit"
        );
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({})", self.ways())
    }
}

/// What is left of a turn's share of work.
struct Turn {
    sends: usize,
    outputs: usize,
    /// Whether no staging slot is free.
    is_blocked: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            sends: SENDS_PER_TURN,
            outputs: OUTPUTS_PER_TURN,
            is_blocked: false,
        }
    }
}

impl Turn {
    /// Whether the machine may have more at once.
    const fn is_spent(&self) -> bool {
        self.sends == 0 || self.outputs == 0
    }
}

fn now(origin: Instant) -> Time {
    Time::ZERO + origin.elapsed()
}

/// Opens the backend; gives it with what was not granted.
fn open(setup: Setup) -> Result<(Box<dyn Io>, Backend, Vec<String>)> {
    let mut notes = Vec::new();
    let orders = Orders {
        standing: setup.ways.receive > Way::Single,
        sockets: setup.sockets.len(),
        zero_copy: setup.ways.send == Way::ZeroCopy,
    };
    // Files in memory are not moved by the ring: to register blocks for it would only take all
    // their pages at once.
    let in_memory = !setup.files.is_empty() && setup.files.iter().all(is_in_memory);
    let arena = setup.arena.filter(|_| !in_memory);
    let ring = match setup.ways.backend {
        Backend::Plain => None,
        Backend::Ring => Some(Ring::new(arena, orders)?),
        Backend::Auto => match Ring::new(arena, orders) {
            Ok(ring) => Some(ring),
            Err(e) => {
                notes.push(format!("{}; plain system calls are used", in_full(&e)));
                None
            }
        },
    };
    let batches = match (&ring, setup.sockets.first()) {
        (Some(ring), _) => Batches {
            send: true,
            receive: ring.orders_stand(),
            zero_copy: ring.sends_without_copy(),
        },
        (None, Some(socket)) => Batches::probe(socket),
        (None, None) => Batches::BOTH,
    };
    let options = Options {
        waits: ring.is_some(),
        zero_copy: ring.is_some() && setup.ways.send == Way::ZeroCopy,
    };
    let streams = Streams::new(setup.listeners, options, Arc::clone(&setup.counters))?;
    let channels = Channels::new(setup.sockets, setup.ways, batches, setup.counters)?;
    notes.extend(channels.notes(setup.ways));
    let Some(ring) = ring else {
        let batched = setup.ways.receive > Way::Single && batches.receive;
        let plain = Plain::new(channels, streams, setup.files, batched)?;
        return Ok((Box::new(plain), Backend::Plain, notes));
    };
    if let Some(e) = ring.unregistered_because() {
        notes.push(format!(
            "The memory of blocks is not registered with the ring ({e}); raise RLIMIT_MEMLOCK"
        ));
    }
    let uring = Uring::new(ring, channels, streams, setup.files);
    Ok((Box::new(uring), Backend::Ring, notes))
}

/// An error with its cause.
pub(super) fn in_full(e: &Error) -> String {
    match std::error::Error::source(e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    }
}

/// How the loop asks the kernel; one implementation per backend.
///
/// Within a run the order is: any number of `slot`+`send`, `disk` and `stream`, then `wait`, then
/// `next` until it gives `None`.
trait Io {
    /// Begins a run; `wake` becomes readable when the loop should look at its commands.
    fn start(&mut self, wake: BorrowedFd<'_>) -> Result<()>;
    /// A free staging slot's bytes, [`super::limits::DATAGRAM_BYTES_MAX`] of them; `None` while all
    /// are on their way.
    fn slot(&mut self) -> Option<&mut [u8]>;
    /// Sends what the slot given last holds.
    fn send(&mut self, transmit: Transmit);
    /// Begins a disk operation.
    fn disk(&mut self, op: DiskOp);
    /// Begins what the machine wants of a stream.
    fn stream(&mut self, op: StreamOp) -> Result<()>;
    /// Hands everything to the kernel and waits for something to happen, no longer than `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<()>;
    /// The next thing that happened.
    fn next(&mut self) -> Result<Option<Arrival<'_>>>;
    /// Ends a run: lets what is on its way end, no longer than `patience`.
    fn finish(&mut self, patience: Duration);
    /// The sockets.
    fn channels(&self) -> &Channels;
}

/// Something that happened.
enum Arrival<'a> {
    Datagrams(Datagrams<'a>),
    Disk(DiskDone),
    Stream(StreamInput<'a>),
}

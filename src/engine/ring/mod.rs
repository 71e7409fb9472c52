//! The owner of an io_uring and of everything in flight in it.
//!
//! ```text
//!   push (send, disk, receive, wake) ─► submission queue ─► kernel ─► completion queue ─► complete
//!            └─ Flight into the table ───────── held until here ──────────┘
//! ```
//!
//! Invariant: memory that the kernel may touch belongs to a [`Flight`] in the table, to the receive
//! buffers or to the arena, from before its submission until its last completion was taken. If a
//! ring is dropped with operations that will not end, their memory is parked for ever rather than
//! freed. So no safe use of this module lets the kernel write to memory that somebody else owns.
#![allow(unsafe_code)]

mod buffers;
mod flights;
mod registered;
mod residence;
mod shelf;
mod streams;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use self::buffers::ReceiveBuffers;
pub(super) use self::buffers::{Buffer, Message};
use self::flights::{Flight, Flights};
use self::registered::{COPIED, Registered, send_entry};
pub(super) use self::residence::cached_pages;
use self::streams::StreamBuffers;
pub(super) use self::streams::{Listening, SentGather, StreamBuffer, StreamDone};
use super::disk::Run;
use super::drive::burst::{Burst, Verdict};
use super::error::{Error, ErrorKind, Result};
use super::limits::{FINISH_PATIENCE, RING_ENTRIES};
use super::pool::Arena;
use crate::machine::{Channel, DiskKind};

/// An io_uring with its operations.
pub(super) struct Ring {
    uring: IoUring,
    flights: Flights,
    buffers: ReceiveBuffers,
    /// Those for TCP streams, once there are some.
    stream_buffers: Option<StreamBuffers>,
    registered: Registered,
    mode: Mode,
    /// How often the kernel was entered.
    entries: u64,
}

/// What the kernel says about an operation.
pub(super) enum Completion {
    /// All messages of a burst that were sent have ended, well or not.
    Sent(Burst, Verdict),
    /// A disk operation moved so many bytes, or failed with an `errno`.
    Disk(Run, std::result::Result<usize, i32>),
    /// A message came in, with its length in the buffer; or receiving failed with an `errno`.
    Received {
        channel: Channel,
        result: std::result::Result<(Buffer, usize), i32>,
        /// Whether the standing order holds on; otherwise it is to be given again.
        more: bool,
    },
    /// Something came of an operation on a TCP stream.
    Stream(StreamDone),
    /// The mailbox has something; the order is to be given again.
    Woken,
}

/// How the ring runs its completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only when this thread asks (`SINGLE_ISSUER`, `DEFER_TASKRUN`; Linux 6.1).
    Deferred,
    /// At the next entry into the kernel (`COOP_TASKRUN`; Linux 5.19).
    Cooperative,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deferred => "single issuer, deferred completions",
            Self::Cooperative => "cooperative completions",
        })
    }
}

/// How a ring is to receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    /// Whether one order may serve many messages, if the kernel has that (Linux 6.0).
    pub(super) standing: bool,
    /// How many sockets there are.
    pub(super) sockets: usize,
    /// Whether staging slots may be registered, where the kernel sends from such (Linux 6.15).
    pub(super) zero_copy: bool,
}

impl Ring {
    /// Sets a ring up, with its receive buffers, and registers the arena if the kernel allows it.
    ///
    /// # Errors
    /// When the kernel has no io_uring, forbids it, or lacks a part that we need; the text says
    /// which.
    pub(super) fn new(arena: Option<Arena>, orders: Orders) -> Result<Self> {
        let (uring, mode) = build().map_err(|e| ring_error("Cannot set up an io_uring", e))?;
        let found = check(&uring)?;
        let standing = found.standing && orders.standing;
        let buffers = if standing {
            ReceiveBuffers::register(&uring.submitter())?
        } else {
            ReceiveBuffers::named(orders.sockets)?
        };
        let mut ring = Self {
            uring,
            flights: Flights::default(),
            buffers,
            stream_buffers: None,
            registered: Registered::new()?,
            mode,
            entries: 0,
        };
        let slots = found.zero_copy && orders.zero_copy;
        let submitter = ring.uring.submitter();
        ring.registered.register(&submitter, arena, slots);
        Ok(ring)
    }

    /// How completions are run.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Why the arena is not registered, if it was given and is not.
    pub(super) fn unregistered_because(&self) -> Option<&io::Error> {
        self.registered.refused_because.as_ref()
    }

    /// Whether one order to receive serves many messages.
    pub(super) fn orders_stand(&self) -> bool {
        self.buffers.are_registered()
    }

    /// Where staging slots come from.
    pub(super) fn staging(&self) -> &Arena {
        &self.registered.staging
    }

    /// Whether messages in staging slots may be sent without a copy.
    pub(super) fn sends_without_copy(&self) -> bool {
        self.registered.has_staging
    }

    /// What the kernel's ring has that is of use here, in the kernel's words.
    pub(super) fn features(&self) -> Vec<&'static str> {
        let params = self.uring.params();
        let features = [
            ("NODROP", params.is_feature_nodrop()),
            ("FAST_POLL", params.is_feature_fast_poll()),
            ("EXT_ARG", params.is_feature_ext_arg()),
            ("NATIVE_WORKERS", params.is_feature_native_workers()),
            ("RECVSEND_BUNDLE", params.is_feature_recvsend_bundle()),
            ("MIN_TIMEOUT", params.is_feature_min_timeout()),
        ];
        let there = features.into_iter().filter(|(_, has)| *has);
        there.map(|(name, _)| name).collect()
    }

    /// How often the kernel was entered so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// How many operations the kernel has.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.count
    }

    /// Sends what the burst was aimed at.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, burst: Burst) -> Result<()> {
        let left = burst.message().headers().len();
        let index = self.flights.insert(Flight::Send {
            burst,
            left,
            verdict: Verdict::default(),
            said: None,
        });
        for number in 0..left {
            let pushed = self.push(index, |flight, _| {
                let Flight::Send { burst, .. } = flight else {
                    unreachable!("the flight was made above, and ends after its last message")
                };
                let header = burst.message().headers().nth(number);
                let header = header.expect("a burst has as many messages as it says");
                send_entry(raw(fd), header, burst.is_zero_copy())
            });
            if let Err(e) = pushed {
                // The kernel never sees the rest; what it has ends the flight.
                self.end_sends(index, left - number, Err(libc::EBUSY));
                return Err(e);
            }
        }
        Ok(())
    }

    /// Takes what the kernel says about a message: how it went, and that it is no longer read.
    fn judge_send(&mut self, index: u64, entry: &cqueue::Entry) -> Option<Completion> {
        let Flight::Send { said, verdict, .. } = self.flights.get_mut(index) else {
            unreachable!("the caller has seen that it is a send")
        };
        if cqueue::more(entry.flags()) {
            *said = Some(result(entry));
            return None;
        }
        let is_over = cqueue::notif(entry.flags());
        verdict.copied = is_over && entry.result().cast_unsigned() & COPIED != 0;
        let before = said.take().filter(|_| is_over);
        self.end_sends(index, 1, before.unwrap_or_else(|| result(entry)))
    }

    /// Takes the end of some messages of a burst; gives the burst with the last.
    fn end_sends(
        &mut self,
        index: u64,
        count: usize,
        result: std::result::Result<usize, i32>,
    ) -> Option<Completion> {
        let Flight::Send { left, verdict, .. } = self.flights.get_mut(index) else {
            unreachable!("the caller has seen that it is a send")
        };
        for _ in 0..count {
            verdict.add(result);
        }
        *left -= count;
        if *left > 0 {
            return None;
        }
        let Flight::Send { burst, verdict, .. } = self.flights.remove(index) else {
            unreachable!("it was a send above")
        };
        Some(Completion::Sent(burst, verdict))
    }

    /// Moves what is left of a disk operation.
    pub(super) fn disk(&mut self, fd: BorrowedFd<'_>, run: Run) -> Result<()> {
        self.launch(Flight::Disk(run), |flight, registered| {
            let Flight::Disk(run) = flight else {
                unreachable!("the flight was made a line above")
            };
            disk_entry(raw(fd), run, registered)
        })
    }

    /// Gives the order to receive on a socket.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, channel: Channel) -> Result<()> {
        let (entry, buffer) = self.buffers.order(raw(fd));
        self.launch(Flight::Receive { channel, buffer }, |_, _| entry)
    }

    /// Gives the order to say when `fd` becomes readable.
    pub(super) fn wake(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let readable = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(raw(fd), readable).build();
        self.launch(Flight::Wake, |_, _| entry)
    }

    /// Cancels everything; what ends by itself first does so.
    pub(super) fn cancel_all(&mut self) -> Result<()> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.launch(Flight::Cancel, |_, _| entry)
    }

    fn launch(
        &mut self,
        flight: Flight,
        entry: impl FnOnce(&mut Flight, &Registered) -> squeue::Entry,
    ) -> Result<()> {
        let index = self.flights.insert(flight);
        self.push(index, entry).inspect_err(|_| {
            // The kernel never saw it.
            self.flights.remove(index);
        })
    }

    /// Pushes an operation of a flight in the table.
    fn push(
        &mut self,
        index: u64,
        entry: impl FnOnce(&mut Flight, &Registered) -> squeue::Entry,
    ) -> Result<()> {
        if self.uring.submission().is_full() {
            self.enter(Duration::ZERO)?;
        }
        let flight = self.flights.get_mut(index);
        let entry = entry(flight, &self.registered).user_data(index);
        // SAFETY: the memory that the entry names belongs to the flight in the table (messages, or
        // a block), to `self.buffers` or to nothing; all of these stay where they are until the
        // last completion (this module's invariant, kept by `complete` and `drop`).
        let pushed = unsafe { self.uring.submission().push(&entry) };
        pushed.map_err(|_| {
            let full = io::Error::from_raw_os_error(libc::EBUSY);
            ring_error("The submission queue stays full", full)
        })
    }

    /// Submits what was pushed, and waits for a completion no longer than `timeout`.
    pub(super) fn enter(&mut self, timeout: Duration) -> Result<()> {
        let ready = !self.uring.completion().is_empty();
        let submission = self.uring.submission();
        let must = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        let want = usize::from(!ready && !timeout.is_zero());
        if want == 0 && !must {
            return Ok(());
        }
        self.entries += 1;
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        match self.uring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Time is up, or the kernel wants completions to be taken first.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(ring_error("Cannot enter the io_uring", e)),
            },
        }
    }

    /// Takes the next completion.
    pub(super) fn complete(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            if let Some(completion) = self.judge(&entry) {
                return Some(completion);
            }
        }
    }

    fn judge(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let index = entry.user_data();
        match self.flights.get_mut(index) {
            Flight::Receive { channel, .. } => {
                let channel = *channel;
                return Some(self.judge_receive(index, channel, entry));
            }
            Flight::Send { .. } => return self.judge_send(index, entry),
            Flight::Stream(_) => return self.judge_stream(index, entry),
            Flight::Disk(_) | Flight::Wake | Flight::Cancel => {}
        }
        match self.flights.remove(index) {
            Flight::Disk(run) => Some(Completion::Disk(run, result(entry))),
            Flight::Wake => Some(Completion::Woken),
            Flight::Cancel => None,
            Flight::Receive { .. } | Flight::Send { .. } | Flight::Stream(_) => {
                unreachable!("these were dealt with above")
            }
        }
    }

    fn judge_receive(&mut self, index: u64, channel: Channel, entry: &cqueue::Entry) -> Completion {
        let more = cqueue::more(entry.flags());
        let mut buffer = None;
        if !more && let Flight::Receive { buffer: named, .. } = self.flights.remove(index) {
            buffer = named;
        }
        let is_named = buffer.is_some();
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            buffer = Some(self.buffers.taken(id));
        }
        let result = match (result(entry), buffer) {
            (Ok(len), Some(buffer)) if is_named => {
                let len = self.buffers.complete(&buffer, len);
                Ok((buffer, len))
            }
            (Ok(len), Some(buffer)) => Ok((buffer, len)),
            // Without a buffer there was nothing; the order goes on or is given again.
            (Ok(_), None) => Err(libc::EAGAIN),
            (Err(errno), buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.give(buffer);
                }
                Err(errno)
            }
        };
        Completion::Received {
            channel,
            result,
            more,
        }
    }

    /// Reads a message that came in; `None` when it is cut off or its sender has no address.
    pub(super) fn message(&mut self, buffer: &Buffer, len: usize) -> Option<Message<'_>> {
        self.buffers.message(buffer, len)
    }

    /// Gives a buffer back to the kernel.
    pub(super) fn recycle(&mut self, buffer: Buffer) {
        self.buffers.give(buffer);
    }

    /// Cancels what is in flight and waits for its end; tells whether all has ended.
    pub(super) fn quiesce(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        if self.in_flight() > 0 && self.cancel_all().is_err() {
            return false;
        }
        while self.in_flight() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.enter(left).is_err() {
                return false;
            }
            while let Some(completion) = self.complete() {
                match completion {
                    Completion::Received {
                        result: Ok((buffer, _)),
                        ..
                    } => self.recycle(buffer),
                    Completion::Stream(StreamDone::Received {
                        result: Ok(Some((buffer, _))),
                        ..
                    }) => self.recycle_stream(buffer),
                    Completion::Sent(..)
                    | Completion::Disk(..)
                    | Completion::Received { .. }
                    | Completion::Stream(_)
                    | Completion::Woken => {}
                }
            }
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.quiesce(FINISH_PATIENCE) {
            return;
        }
        tracing::warn!(
            in_flight = self.in_flight(),
            "operations do not end, their memory is kept"
        );
        std::mem::forget(std::mem::take(&mut self.flights));
        self.buffers.park();
        if let Some(buffers) = &mut self.stream_buffers {
            buffers.park();
        }
        self.registered.park();
    }
}

fn raw(fd: BorrowedFd<'_>) -> Fd {
    Fd(fd.as_raw_fd())
}

fn result(entry: &cqueue::Entry) -> std::result::Result<usize, i32> {
    usize::try_from(entry.result()).map_err(|_| -entry.result())
}

fn ring_error(context: &str, source: io::Error) -> Error {
    Error::os(ErrorKind::Ring, context, source)
}

fn disk_entry(fd: Fd, run: &mut Run, registered: &Registered) -> squeue::Entry {
    let offset = run.offset();
    let index = registered.index_of(&run.op.block);
    let rest = run.rest();
    let bytes = &mut run.op.block[rest];
    // A longer rest follows when this part is done.
    let len = u32::try_from(bytes.len()).unwrap_or(1 << 30);
    let address = bytes.as_mut_ptr();
    match (run.op.kind, index) {
        (DiskKind::Read, Some(index)) => opcode::ReadFixed::new(fd, address, len, index)
            .offset(offset)
            .build(),
        (DiskKind::Read, None) => opcode::Read::new(fd, address, len).offset(offset).build(),
        (DiskKind::Write, Some(index)) => opcode::WriteFixed::new(fd, address, len, index)
            .offset(offset)
            .build(),
        (DiskKind::Write, None) => opcode::Write::new(fd, address, len).offset(offset).build(),
    }
}

/// Builds a ring in the best mode that the kernel has.
fn build() -> io::Result<(IoUring, Mode)> {
    let mut deferred = IoUring::builder();
    deferred
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    let modes = [(deferred, Mode::Deferred), (cooperative, Mode::Cooperative)];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (mut builder, mode) in modes {
        builder.setup_cqsize(RING_ENTRIES * 4);
        match builder.build(RING_ENTRIES) {
            Ok(uring) => return Ok((uring, mode)),
            Err(e) => last = e,
        }
        // Only an unknown flag is a reason to try with fewer.
        if last.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(last)
}

/// Checks that the kernel has every operation that is needed here; tells what else it has.
fn check(uring: &IoUring) -> Result<Found> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|e| ring_error("Cannot ask what the io_uring can do", e))?;
    let needed = [
        ("SENDMSG", opcode::SendMsg::CODE),
        ("RECVMSG", opcode::RecvMsg::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, code)| !probe.is_supported(*code))
        .map(|(name, _)| *name)
        .collect();
    let params = uring.params();
    if !missing.is_empty() || !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
        let context = format!(
            "This kernel's io_uring is too old, it lacks: {}",
            missing.join(", ")
        );
        return Err(Error::new(ErrorKind::Ring, context));
    }
    // Neither has a mark of its own; each came with the kernel that had this one first.
    Ok(Found {
        standing: probe.is_supported(opcode::SendZc::CODE),
        zero_copy: probe.is_supported(opcode::ReadvFixed::CODE),
    })
}

/// What a kernel has that not all have.
struct Found {
    /// Whether one order to receive can serve many messages.
    standing: bool,
    /// Whether messages can be sent from registered memory.
    zero_copy: bool,
}

//! How other threads talk to the machine that a driver runs: a bounded queue and a wake-up.
//!
//! Invariant: a command is in the queue before the wake-up is written, and the driver clears the
//! wake-up before it empties the queue; so none is overlooked.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender, TrySendError};
use rustix::event::EventfdFlags;

use super::error::{Error, ErrorKind, Result};
use super::limits::COMMANDS_WAITING_MAX;

/// Makes a mailbox: the end that sends, for any thread, and the end for [`super::Driver::run`].
///
/// # Errors
/// When the process is out of file descriptors.
pub fn mailbox<C>() -> Result<(Mailbox<C>, Commands<C>)> {
    let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| Error::os(ErrorKind::Wait, "Cannot make an eventfd", e))?;
    let bell = Arc::new(Bell {
        fd,
        stopped: AtomicBool::new(false),
    });
    let (sender, receiver) = crossbeam::channel::bounded(COMMANDS_WAITING_MAX);
    let commands = Commands {
        receiver,
        bell: Arc::clone(&bell),
    };
    Ok((Mailbox { sender, bell }, commands))
}

/// The sending end; cheap to clone.
#[derive(Debug)]
pub struct Mailbox<C> {
    sender: Sender<C>,
    bell: Arc<Bell>,
}

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<C> Mailbox<C> {
    /// Sends a command without waiting; gives it back when the driver is gone or too far behind.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn send(&self, command: C) -> std::result::Result<(), Refused<C>> {
        self.sender.try_send(command).map_err(|e| match e {
            TrySendError::Full(command) => Refused::Full(command),
            TrySendError::Disconnected(command) => Refused::Closed(command),
        })?;
        self.bell.ring();
        Ok(())
    }

    /// Ends the driver's run after its current turn, whatever the machine does.
    pub fn stop(&self) {
        self.bell.stopped.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// Why a command was not taken, with the command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused<C> {
    /// Too many commands wait already.
    #[error("Too many commands wait")]
    Full(C),
    /// The receiving end is gone.
    #[error("Nobody receives commands any more")]
    Closed(C),
}

/// The receiving end.
#[derive(Debug)]
pub struct Commands<C> {
    receiver: Receiver<C>,
    bell: Arc<Bell>,
}

impl<C> Commands<C> {
    /// Takes the next command.
    pub(super) fn take(&self) -> Option<C> {
        self.receiver.try_recv().ok()
    }

    /// Whether commands wait.
    pub(super) fn waiting(&self) -> bool {
        !self.receiver.is_empty()
    }

    /// Whether somebody has asked for the end.
    pub(super) fn stopped(&self) -> bool {
        self.bell.stopped.load(Ordering::Acquire)
    }

    /// What becomes readable when there is something to look at.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

/// Makes a wake-up fd unreadable again.
pub(super) fn clear(fd: BorrowedFd<'_>) {
    // An eventfd gives its whole count at once; EAGAIN means that it was clear already.
    let mut count = [0_u8; 8];
    let _cleared = rustix::io::read(fd, &mut count);
}

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    stopped: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // It fails only when the counter is full, and then the fd is readable already.
        let _rung = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_order_and_too_many_are_refused() {
        let (mailbox, commands) = mailbox().unwrap();
        for number in 0..COMMANDS_WAITING_MAX {
            mailbox.send(number).unwrap();
        }
        assert_eq!(mailbox.send(0), Err(Refused::Full(0)));
        assert_eq!((commands.take(), commands.take()), (Some(0), Some(1)));
        drop(commands);
        assert_eq!(mailbox.send(5), Err(Refused::Closed(5)));
    }

    #[test]
    fn stop_is_seen() {
        let (mailbox, commands) = mailbox::<()>().unwrap();
        assert!(!commands.stopped());
        mailbox.stop();
        assert!(commands.stopped());
    }
}

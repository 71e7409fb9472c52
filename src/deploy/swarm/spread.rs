//! A machine of one file whose bytes are in many: its disk operations are done here, with plain
//! system calls on its thread, and split where one file ends and the next begins.
//!
//! The engine moves bytes of one file per operation and has few files; a torrent may have very
//! many, and a piece parts of several. So the seam is here, and the ring has no part in it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::files::Files;
use crate::base::Time;
use crate::machine::{DiskDone, DiskError, DiskKind, DiskOp, Input, Machine, Output, Transmit};

/// See the module.
pub(super) struct Spread<M: Machine> {
    machine: M,
    files: Arc<Files>,
    /// What the machine is to be told.
    done: VecDeque<DiskDone>,
}

impl<M: Machine> Spread<M> {
    pub(super) const fn new(machine: M, files: Arc<Files>) -> Self {
        Self {
            machine,
            files,
            done: VecDeque::new(),
        }
    }

    fn perform(&self, mut op: DiskOp) -> DiskDone {
        let bytes = &mut op.block[..op.len];
        let result = match op.kind {
            DiskKind::Read => self.files.read_at(bytes, op.offset),
            DiskKind::Write => self.files.write_at(bytes, op.offset),
        };
        DiskDone {
            tag: op.tag,
            kind: op.kind,
            block: op.block,
            result: result.map_err(|error| disk_error(&error)),
        }
    }
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::Full,
        Some(errno) => DiskError::Errno(errno),
        None if error.kind() == io::ErrorKind::UnexpectedEof => DiskError::Short,
        None => DiskError::Errno(libc::EIO),
    }
}

impl<M: Machine> Machine for Spread<M> {
    type Command = M::Command;
    type Event = M::Event;

    fn handle(&mut self, input: Input<'_, M::Command>, now: Time) {
        while let Some(done) = self.done.pop_front() {
            self.machine.handle(Input::Disk(done), now);
        }
        self.machine.handle(input, now);
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        self.machine.poll_transmit(now, buffer)
    }

    fn poll_output(&mut self) -> Option<Output<M::Event>> {
        loop {
            match self.machine.poll_output()? {
                Output::Disk(op) => {
                    let done = self.perform(op);
                    self.done.push_back(done);
                }
                other @ (Output::Event(_) | Output::Stream(_)) => return Some(other),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        if self.done.is_empty() {
            self.machine.poll_timeout()
        } else {
            Some(Time::ZERO)
        }
    }
}

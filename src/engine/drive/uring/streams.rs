//! The TCP streams of the ring's backend.

use std::os::fd::AsFd;

use super::super::streams::{Ask, errno_of};
use super::{Came, Uring};
use crate::engine::error::Result;
use crate::engine::limits::STREAM_BUFFER_BYTES;
use crate::engine::ring::{Listening, SentGather, StreamBuffer, StreamDone};
use crate::machine::StreamOp;

impl Uring {
    /// Takes what the machine wants of its streams.
    pub(super) fn begin_stream(&mut self, op: StreamOp) -> Result<()> {
        match self.streams.take(op) {
            None => Ok(()),
            Some(Ask::Connect(slot, to)) => {
                self.streams.hold(slot);
                self.ring.connect(self.streams.fd(slot), slot, to)
            }
            Some(Ask::LetGo(slot)) => self.let_go(slot),
        }
    }

    /// Takes back what the kernel has of a stream that has ended.
    fn let_go(&mut self, slot: usize) -> Result<()> {
        self.deaf_streams.retain(|&other| other != slot);
        if self.streams.held(slot) > 0 {
            self.ring.cancel(self.streams.fd(slot))?;
        }
        self.streams.free_if_over(slot);
        Ok(())
    }

    /// Hands the kernel everything of streams that is ready for it.
    pub(super) fn push_streams(&mut self) -> Result<()> {
        while let Some(slot) = self.streams.late() {
            self.let_go(slot)?;
        }
        if !self.streams.rests() {
            while let Some(index) = self.idle_listeners.pop() {
                let fd = self.streams.listeners[index].as_fd();
                self.ring.accept(fd, Listening(index))?;
            }
        }
        while let Some(slot) = self.deaf_streams.pop() {
            self.streams.hold(slot);
            self.ring.receive_stream(self.streams.fd(slot), slot)?;
        }
        while let Some((slot, gather, zero_copy)) = self.streams.gather() {
            self.streams.hold(slot);
            self.sent = true;
            let name = (slot, self.streams.id(slot));
            let fd = self.streams.fd(slot);
            self.ring.send_stream(fd, name, gather, zero_copy)?;
        }
        Ok(())
    }

    /// Takes what the kernel says about an operation on a stream.
    pub(super) fn take_stream(&mut self, done: StreamDone) -> Result<Option<Came>> {
        match done {
            StreamDone::Accepted {
                listening: Listening(index),
                result,
                more,
            } => {
                if !more {
                    self.idle_listeners.push(index);
                }
                if let Some(slot) = self.streams.accepted(result) {
                    self.deaf_streams.push(slot);
                }
            }
            StreamDone::Connected(slot, result) => {
                if self.streams.connected(slot, result) {
                    self.deaf_streams.push(slot);
                }
                self.streams.let_go(slot);
            }
            StreamDone::Received { slot, result, more } => {
                return self.take_received(slot, result, more);
            }
            StreamDone::Readable(slot) => return self.take_readable(slot),
            StreamDone::Sent {
                slot,
                result,
                zero_copy,
                gather,
            } => {
                match gather {
                    SentGather::Back(gather) => {
                        self.streams.sent(slot, &gather, result, zero_copy);
                        self.streams.reuse(gather);
                    }
                    SentGather::Kept(flight) => {
                        self.streams.asked_for_no_copy(slot);
                        let gather = self.ring.kept(flight);
                        self.streams.sent(slot, gather, result, zero_copy);
                    }
                }
                self.streams.let_go(slot);
            }
            StreamDone::Read {
                slot,
                id,
                copied,
                gather,
            } => {
                self.streams.read(slot, id, copied);
                self.streams.reuse(gather);
            }
        }
        Ok(None)
    }

    fn take_received(
        &mut self,
        slot: usize,
        result: std::result::Result<Option<(StreamBuffer, usize)>, i32>,
        more: bool,
    ) -> Result<Option<Came>> {
        let (result, buffer) = match result {
            Ok(Some((buffer, len))) => (Ok(len), Some((buffer, len))),
            Ok(None) => (Ok(0), None),
            Err(errno) => (Err(errno), None),
        };
        let id = self.streams.received(slot, result);
        let came = match (id, buffer) {
            (Some(id), Some((buffer, len))) => Some(Came::Stream(id, buffer, len)),
            (None, Some((buffer, _))) => {
                self.ring.recycle_stream(buffer);
                None
            }
            (_, None) => None,
        };
        if !more {
            if self.streams.is_open(slot) {
                self.deaf_streams.push(slot);
            }
            self.end_receiving(slot)?;
        }
        Ok(came)
    }

    /// Takes bytes that are there.
    fn take_readable(&mut self, slot: usize) -> Result<Option<Came>> {
        let mut came = None;
        if self.streams.is_open(slot) {
            self.scratch.resize(STREAM_BUFFER_BYTES, 0);
            let flags = rustix::net::RecvFlags::DONTWAIT;
            let fd = self.streams.fd(slot);
            let result = rustix::net::recv(fd, self.scratch.as_mut_slice(), flags);
            let result = result.map(|(count, _)| count);
            let result = result.map_err(|e| errno_of(&e.into()));
            let len = *result.as_ref().unwrap_or(&0);
            let id = self.streams.received(slot, result);
            if self.streams.is_open(slot) {
                self.deaf_streams.push(slot);
            }
            came = id.map(|id| Came::Scratch(id, len));
        }
        self.end_receiving(slot)?;
        Ok(came)
    }

    /// Takes note that an order to receive has ended; a send of an ended stream ends with it.
    fn end_receiving(&mut self, slot: usize) -> Result<()> {
        if !self.streams.is_open(slot) && self.streams.held(slot) > 1 {
            self.ring.cancel(self.streams.fd(slot))?;
        }
        self.streams.let_go(slot);
        Ok(())
    }
}

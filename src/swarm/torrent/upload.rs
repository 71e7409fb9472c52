//! What is seeded: what peers are shown, and what they are sent.

use super::{Event, Torrent, Why};
use crate::base::{Bitmap, PieceIndex, Time};
use crate::image::verify::Verify;
use crate::machine::{DiskDone, DiskError, DiskKind, StreamId};
use crate::swarm::limits::{AHEAD_BYTES_MAX, ORDERS_MAX, READ_AHEAD};
use crate::swarm::shelf::Found;
use crate::swarm::wire::extension::{Extension, emit_dont_have, emit_upload_only};
use crate::swarm::wire::{BlockRange, Message};

impl<V: Verify> Torrent<V> {
    /// Tells a peer that has just come what is here.
    pub(super) fn show_what_is_here(&mut self, id: StreamId) {
        let count = self.cut.piece_count() as usize;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(partition) = &mut self.partition {
            partition.join(id);
            peer.shown = Some(Bitmap::new(count));
            if peer.knows_fast {
                peer.say(&Message::HaveNone);
            } else {
                // Some wait for one, though it may be left out.
                peer.say(&Message::Bitfield(&vec![0; count.div_ceil(8)]));
            }
        } else if peer.knows_fast && self.have.is_full() {
            peer.say(&Message::HaveAll);
        } else if peer.knows_fast && self.have.is_empty() {
            peer.say(&Message::HaveNone);
        } else if !self.have.is_empty() {
            let mut bits = vec![0_u8; count.div_ceil(8)];
            for index in self.have.iter() {
                bits[index / 8] |= 0x80 >> (index % 8);
            }
            peer.say(&Message::Bitfield(&bits));
        }
        self.dirty.insert(id);
    }

    /// Tells everybody that a piece is here: with what else is said, or at the next tick.
    pub(super) fn show_all_peers(&mut self, piece: PieceIndex) {
        for peer in self.peers.values_mut() {
            if peer.is_ready() && peer.shown.is_none() {
                peer.say(&Message::Have(piece));
            }
        }
    }

    /// Shows pieces one by one, while this is the seed that everybody waits for.
    pub(super) fn reveal(&mut self, now: Time) {
        let Some(partition) = self.partition.as_mut().filter(|_| self.serves) else {
            return;
        };
        while let Some((id, piece)) = partition.reveal(now) {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if let Some(shown) = &mut peer.shown
                && shown.set(piece.as_usize())
            {
                peer.say(&Message::Have(piece));
            }
            peer.moved_at = now;
            self.dirty.insert(id);
        }
        if partition.is_over() && partition.patience_ends().is_none() {
            self.partition = None;
        }
    }

    /// Shows again what nobody has any more since a peer is gone: all wait for it here.
    pub(super) fn show_again(&mut self, theirs: &Bitmap) {
        for index in theirs.iter().filter(|&index| self.have.get(index)) {
            let piece = PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
            if self.picker.availability(piece) > 0 {
                continue;
            }
            if let Some(partition) = &mut self.partition {
                partition.lost(piece);
                continue;
            }
            for peer in self.peers.values_mut() {
                if peer.shown.as_mut().is_some_and(|shown| shown.set(index)) {
                    peer.say(&Message::Have(piece));
                }
            }
        }
    }

    /// Begins to serve peers again, or serves them no more for now.
    pub(super) fn set_serving(&mut self, serves: bool, now: Time) {
        if self.serves == serves {
            return;
        }
        self.serves = serves;
        for (&id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_ready()) {
            if serves && peer.wants_us && peer.is_choked {
                peer.is_choked = false;
                peer.say(&Message::Unchoke);
            } else if !serves && !peer.is_choked {
                peer.is_choked = true;
                peer.say(&Message::Choke);
                // With the fast extension a choke alone takes nothing back.
                for order in std::mem::take(&mut peer.orders) {
                    if peer.knows_fast {
                        peer.say(&Message::Reject(order));
                    }
                }
            }
            peer.moved_at = now;
            self.dirty.insert(id);
        }
    }

    /// A peer gets nowhere with what it was shown: it sees everything from now on.
    pub(super) fn show_the_rest(&mut self, id: StreamId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(shown) = peer.shown.take() else {
            return;
        };
        for index in self.have.iter() {
            if !shown.get(index) && !peer.theirs.get(index) {
                let piece = PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
                peer.say(&Message::Have(piece));
            }
        }
    }

    pub(super) fn on_request(&mut self, id: StreamId, range: BlockRange) -> Result<(), Why> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if !self.cut.holds(range) {
            return Err(Why::Senseless("It asked for bytes that do not exist"));
        }
        let piece = range.piece.as_usize();
        let is_shown = peer.shown.as_ref().is_none_or(|shown| shown.get(piece));
        let is_served =
            is_shown && self.have.get(piece) && !peer.is_choked && peer.orders.len() < ORDERS_MAX;
        if is_served {
            peer.orders.push_back(range);
        } else if peer.knows_fast {
            peer.say(&Message::Reject(range));
        }
        Ok(())
    }

    /// Sends a peer what it asked for, as far as memory and the cap allow.
    pub(super) fn serve(&mut self, id: StreamId, now: Time) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            let Some(&range) = peer.orders.front() else {
                return;
            };
            if peer.ahead_bytes() >= AHEAD_BYTES_MAX {
                return;
            }
            let Found::Here(bytes) = self.shelf.find(range.piece) else {
                return self.read_for(id, None);
            };
            if let Err(at) = self.up_cap.pass(range.len, now) {
                self.cap_at = self.cap_at.min(at);
                return;
            }
            let begin = range.begin as usize;
            let bytes = bytes.slice(begin..begin + range.len as usize);
            peer.orders.pop_front();
            peer.moved_at = now;
            self.stats.bytes_out += bytes.len() as u64;
            peer.give(range, bytes);
        }
    }

    /// Reads what a peer is to be sent next, `first` before all, and a little ahead.
    pub(super) fn read_for(&mut self, id: StreamId, first: Option<PieceIndex>) {
        self.waiting.insert(id);
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let mut pieces: Vec<PieceIndex> = Vec::with_capacity(READ_AHEAD);
        for piece in first
            .into_iter()
            .chain(peer.orders.iter().map(|order| order.piece))
        {
            if !pieces.contains(&piece) {
                pieces.push(piece);
            }
            if pieces.len() == READ_AHEAD {
                break;
            }
        }
        for (at, piece) in pieces.into_iter().enumerate() {
            // Reading ahead is not worth throwing anything out.
            let has_room = at == 0 || self.shelf.has_room();
            if self.shelf.find(piece) != Found::Absent || !has_room || !self.shelf.make_room() {
                continue;
            }
            let memory = self.blocks.take().or_else(|| {
                self.shelf.drop_oldest();
                self.blocks.take()
            });
            let Some(memory) = memory else {
                return;
            };
            self.shelf.begin(piece);
            let op = self.disk_op(piece, DiskKind::Read, memory);
            self.outputs.push_back(op);
        }
    }

    pub(super) fn read(&mut self, piece: PieceIndex, done: DiskDone) {
        let len = self.cut.len(piece) as usize;
        let is_right = done
            .result
            .map(|()| self.verify.verify(piece, &done.block[..len]));
        match is_right {
            Ok(true) => return self.shelf.put(piece, done.block, len),
            Ok(false) => self.raise(Event::DiskFailed {
                piece,
                error: DiskError::Damaged,
            }),
            Err(error) => self.raise(Event::DiskFailed { piece, error }),
        }
        self.shelf.forget(piece);
        self.lost(piece);
    }

    /// A piece that was here cannot be read any more: it is wanted again, and nobody is to ask for
    /// it here.
    fn lost(&mut self, piece: PieceIndex) {
        let was_complete = self.is_complete();
        if !self.have.clear(piece.as_usize()) {
            return;
        }
        self.picker.lose(piece);
        self.stats.pieces_done = u32::try_from(self.have.count()).unwrap_or(u32::MAX);
        // No seed that everybody waits for lacks a piece.
        let ids: Vec<StreamId> = self.peers.keys().copied().collect();
        if self.partition.take().is_some() {
            ids.iter().for_each(|&id| self.show_the_rest(id));
        }
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_ready()) else {
                continue;
            };
            if let Some(number) = peer.ids.get(Extension::DontHave) {
                peer.say(&Message::Extended(number, &emit_dont_have(piece)));
            }
            if let Some(number) = peer.ids.get(Extension::UploadOnly)
                && was_complete
            {
                peer.say(&Message::Extended(number, &emit_upload_only(false)));
            }
            for order in std::mem::take(&mut peer.orders) {
                if order.piece != piece {
                    peer.orders.push_back(order);
                } else if peer.knows_fast {
                    peer.say(&Message::Reject(order));
                }
            }
            if peer.theirs.get(piece.as_usize()) {
                self.want_of(id);
            }
        }
        self.all_dirty();
    }

    /// The kernel took more of what was to be sent to a peer.
    pub(super) fn sent(&mut self, id: StreamId, count: usize, now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let blocks: Vec<BlockRange> = peer.sent(count).collect();
        peer.moved_at = now;
        for range in blocks {
            let is_last = range.begin + range.len >= self.sent_len(range.piece);
            if let Some(partition) = self.partition.as_mut().filter(|_| is_last) {
                partition.sent(id, range.piece, now);
            }
        }
        self.dirty.insert(id);
        self.dirty.append(&mut self.waiting);
    }
}

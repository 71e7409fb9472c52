//! What is fetched: requests, blocks that come, and what becomes of whole pieces.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::{Event, Torrent, Why};
use crate::base::{PieceIndex, Time};
use crate::image::verify::Verify;
use crate::machine::{DiskDone, DiskKind, StreamId};
use crate::swarm::disputes::Wrong;
use crate::swarm::fetches::{Taken, Whole};
use crate::swarm::limits::BLOCK_BYTES;
use crate::swarm::wire::{BlockRange, Message};

impl<V: Verify> Torrent<V> {
    /// Asks a peer for as much as it can send soon.
    pub(super) fn ask(&mut self, id: StreamId, now: Time) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            if peer.chokes_us || !peer.is_wanted || peer.asked.len() >= peer.asked_target() {
                return;
            }
            if let Err(at) = self.down_cap.pass(BLOCK_BYTES, now) {
                self.cap_at = self.cap_at.min(at);
                return;
            }
            let Some(range) = self.next_range(id, now) else {
                return self.down_cap.give_back(BLOCK_BYTES);
            };
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            if peer.asked.is_empty() {
                peer.brought_at = now;
            }
            peer.asked.push_back(range);
            peer.say(&Message::Request(range));
        }
    }

    /// What to ask a peer for next: of its own piece, of one that nobody brings, of a new one, and
    /// last of what others bring.
    fn next_range(&mut self, id: StreamId, now: Time) -> Option<BlockRange> {
        let theirs = &self.peers.get(&id)?.theirs;
        if let Some(range) = self.fetches.ask_own(id, now) {
            return Some(range);
        }
        if let Some(range) = self.fetches.ask_left(id, theirs, now) {
            return Some(range);
        }
        let kept = self.fetches.count() + self.writing.len() + self.disputes.count();
        if kept < self.fetches_max && self.picker.has_wanted() {
            let memory = self.blocks.take().or_else(|| {
                self.shelf.drop_oldest();
                self.blocks.take()
            });
            if let Some(memory) = memory
                && let Some(piece) = self.picker.pick(theirs)
            {
                let is_alone = self.alone.contains(&piece);
                let len = self.sent_len(piece);
                self.fetches.begin(piece, len, memory, id, is_alone);
                return self.fetches.ask_own(id, now);
            }
        }
        if let Some(range) = self.fetches.ask_shared(theirs, now) {
            return Some(range);
        }
        if self.picker.has_wanted() {
            return None;
        }
        self.fetches.ask_again(id, theirs, now)
    }

    pub(super) fn on_block(
        &mut self,
        id: StreamId,
        part: BlockRange,
        bytes: &[u8],
        is_last: bool,
        now: Time,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        self.stats.bytes_in += bytes.len() as u64;
        peer.down.note(bytes.len() as u64);
        let number = part.begin / BLOCK_BYTES;
        let is_it =
            |range: &BlockRange| range.piece == part.piece && range.begin / BLOCK_BYTES == number;
        // Mostly it is the oldest request.
        let at = peer.asked.iter().position(is_it);
        let late_at = peer.late.iter().position(is_it);
        let Some(range) = at
            .map(|at| peer.asked[at])
            .or(late_at.map(|at| peer.late[at]))
        else {
            self.stats.bytes_wasted += bytes.len() as u64;
            return;
        };
        (peer.brought_at, peer.is_snubbed) = (now, false);
        let taken = self.fetches.take(id, part, bytes);
        if taken == Taken::Useless {
            self.stats.bytes_wasted += bytes.len() as u64;
        }
        if is_last && let Some(at) = at {
            peer.asked.remove(at);
            self.fetches.unask(id, range);
        } else if is_last && let Some(at) = late_at {
            peer.late.remove(at);
        }
        let of_sender = u8::from(at.is_some());
        match taken {
            Taken::Useless | Taken::Part => {}
            Taken::Block { askers } => {
                self.cancel_elsewhere(id, range, askers.saturating_sub(of_sender));
            }
            Taken::Piece { askers } => {
                self.cancel_elsewhere(id, range, askers.saturating_sub(of_sender));
                self.whole(range.piece, now);
            }
        }
    }

    /// Takes back what others were asked for too.
    fn cancel_elsewhere(&mut self, from: StreamId, range: BlockRange, mut others: u8) {
        for (&id, peer) in &mut self.peers {
            if others == 0 {
                return;
            }
            if id == from {
                continue;
            }
            if let Some(at) = peer.asked.iter().position(|asked| *asked == range) {
                others -= 1;
                peer.say(&Message::Cancel(range));
                self.dirty.insert(id);
                // With the fast extension an answer comes in any case.
                if !peer.knows_fast {
                    peer.asked.remove(at);
                    self.fetches.unask(id, range);
                }
            }
        }
    }

    fn whole(&mut self, piece: PieceIndex, now: Time) {
        let Some(whole) = self.fetches.finish(piece) else {
            return;
        };
        let len = self.cut.len(piece) as usize;
        if self.verify.verify(piece, &whole.memory[..len]) {
            let Whole { memory, sources } = whole;
            if self.suspects.has(piece) {
                for culprit in self.suspects.convict(piece, &memory[..len]) {
                    self.ban(culprit, Why::SentWrong(piece), now);
                }
            }
            let from = sources.first().copied();
            self.writing
                .insert(piece, from.unwrap_or(StreamId::outgoing(0)));
            let op = self.disk_op(piece, DiskKind::Write, memory);
            self.outputs.push_back(op);
        } else {
            self.wrong(piece, whole, now);
        }
    }

    /// A piece is wrong: whoever brought it alone is banned. Which blocks are wrong other peers can
    /// tell of a v2 torrent.
    fn wrong(&mut self, piece: PieceIndex, whole: Whole, now: Time) {
        let address = |id: &StreamId| self.peers.get(id).map_or(NOBODY, |peer| peer.address);
        let sources: Vec<SocketAddr> = whole.sources.iter().map(address).collect();
        let hosts = hosts(&sources);
        self.raise(Event::PieceWrong {
            piece,
            peers: hosts.len(),
        });
        let wrong = Wrong { whole, sources };
        let is_kept = self.can_dispute(piece);
        if is_kept {
            self.disputes.begin(piece, wrong);
        } else {
            self.blame(piece, &wrong);
        }
        if let [culprit] = *hosts
            && culprit != NOBODY
        {
            self.ban(culprit, Why::SentWrong(piece), now);
        }
        self.seek_leaves(now);
        self.all_dirty();
    }

    /// A wrong piece is fetched anew. If it came from several, the culprit is found when one of
    /// them brings it right.
    pub(super) fn blame(&mut self, piece: PieceIndex, wrong: &Wrong) {
        self.picker.give_back(piece);
        let hosts = hosts(&wrong.sources);
        if hosts.len() > 1 || hosts.contains(&NOBODY) {
            let bytes = &wrong.whole.memory[..self.cut.len(piece) as usize];
            self.suspects.note(piece, bytes, &wrong.sources);
            self.alone.insert(piece);
        }
        self.all_dirty();
    }

    pub(super) fn written(&mut self, piece: PieceIndex, done: DiskDone, now: Time) {
        let from = self.writing.remove(&piece);
        let from = from
            .and_then(|id| self.peers.get(&id))
            .map_or(NOBODY, |peer| peer.address);
        match done.result {
            Ok(()) => {
                let is_news = !self.have.get(piece.as_usize());
                let len = self.cut.len(piece) as usize;
                self.shelf.put(piece, done.block, len);
                if is_news {
                    self.raise(Event::PieceStored { piece, from });
                }
                self.stored(piece, now);
            }
            Err(error) => {
                // It is asked for again only when the job wants that.
                self.picker.give_back(piece);
                self.picker.want(piece, false);
                self.raise(Event::DiskFailed { piece, error });
            }
        }
        self.all_dirty();
    }

    /// A piece that came another way is not waited for.
    pub(super) fn drop_fetch(&mut self, piece: PieceIndex) {
        self.disputes.forget(piece);
        if !self.fetches.forget(piece) {
            return;
        }
        for (&id, peer) in &mut self.peers {
            let ranges = peer.asked.iter().filter(|range| range.piece == piece);
            let ranges: Vec<BlockRange> = ranges.copied().collect();
            for range in ranges {
                peer.say(&Message::Cancel(range));
                self.dirty.insert(id);
            }
            if !peer.knows_fast {
                peer.asked.retain(|range| range.piece != piece);
            }
        }
    }

    pub(super) fn on_reject(&mut self, id: StreamId, range: BlockRange) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.late.retain(|late| *late != range);
        if let Some(at) = peer.asked.iter().position(|asked| *asked == range) {
            peer.asked.remove(at);
            self.fetches.unask(id, range);
            self.fetches.disown(id);
            self.all_dirty();
        }
    }

    /// A peer serves no more: nothing is waited for from it.
    pub(super) fn take_back(&mut self, id: StreamId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            for range in std::mem::take(&mut peer.asked) {
                self.fetches.unask(id, range);
            }
            self.fetches.disown(id);
            self.all_dirty();
        }
    }

    /// A peer is slow to answer: others may be asked for the same.
    pub(super) fn give_to_others(&mut self, id: StreamId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            for range in std::mem::take(&mut peer.asked) {
                self.fetches.unask(id, range);
                peer.late.push_back(range);
            }
            self.fetches.disown(id);
            self.all_dirty();
        }
    }
}

/// The sources, one for each host.
fn hosts(sources: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut hosts = sources.to_vec();
    hosts.sort_unstable();
    hosts.dedup_by_key(|source| source.ip());
    hosts
}

/// Who is gone already.
pub(super) const NOBODY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

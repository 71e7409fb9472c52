//! Hashes of the trees of a v2 torrent. For peers: piece layers from what is kept, leaves from the
//! bytes of a piece. Of peers: the leaves of pieces that came wrong, which tell the wrong blocks.
//!
//! Source: BEP 52 "hash request".

use super::download::NOBODY;
use super::{Torrent, Why};
use crate::base::{PieceIndex, Time};
use crate::image::verify::Verify;
use crate::machine::StreamId;
use crate::swarm::disputes::Wrong;
use crate::swarm::hash::Sha256;
use crate::swarm::limits::{AHEAD_BYTES_MAX, DISPUTES_MAX, LEAF_ORDERS_MAX, LEAVES_INTERVAL};
use crate::swarm::metainfo::Answer;
use crate::swarm::shelf::Found;
use crate::swarm::wire::Message;
use crate::swarm::wire::hashes::HashRange;

impl<V: Verify> Torrent<V> {
    /// The v2 name, if it is one of those that this torrent goes by.
    pub(super) fn v2_name(&self) -> Option<[u8; 20]> {
        let name = self.metainfo.as_ref()?.info().names().v2()?;
        let name = *name.first_chunk().expect("32 bytes start with 20");
        self.names.contains(&name).then_some(name)
    }

    /// Answers at once what is kept, later what has to be made, and refuses all else.
    pub(super) fn on_hash_request(&mut self, id: StreamId, range: HashRange) {
        let answer = self.metainfo.as_ref().and_then(|it| it.answer(&range));
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match answer {
            Some(Answer::Hashes(hashes)) if peer.waiting_bytes() < AHEAD_BYTES_MAX => {
                peer.say(&Message::Hashes(range, &hashes));
            }
            Some(Answer::Leaves(piece))
                if self.have.get(piece.as_usize()) && peer.leaf_orders.len() < LEAF_ORDERS_MAX =>
            {
                peer.leaf_orders.push_back((piece, range));
            }
            Some(_) | None => peer.say(&Message::HashReject(range)),
        }
    }

    /// Hashes a piece for a peer, one at a time.
    pub(super) fn serve_leaves(&mut self, id: StreamId, now: Time) {
        let (Some(peer), Some(metainfo)) = (self.peers.get_mut(&id), &self.metainfo) else {
            return;
        };
        let Some(&(piece, range)) = peer.leaf_orders.front() else {
            return;
        };
        if now < peer.leaves_at || peer.waiting_bytes() >= AHEAD_BYTES_MAX {
            return;
        }
        let found = if self.have.get(piece.as_usize()) {
            self.shelf.find(piece)
        } else {
            Found::Here(bytes::Bytes::new())
        };
        let Found::Here(bytes) = found else {
            return self.read_for(id, Some(piece));
        };
        peer.leaf_orders.pop_front();
        peer.leaves_at = now + LEAVES_INTERVAL;
        match metainfo.leaf_hashes(&range, piece, &bytes) {
            Some(hashes) => peer.say(&Message::Hashes(range, &hashes)),
            None => peer.say(&Message::HashReject(range)),
        }
    }

    /// How many bytes of a piece peers send.
    pub(super) fn sent_len(&self, piece: PieceIndex) -> u32 {
        let metainfo = self.metainfo.as_ref();
        metainfo.map_or_else(|| self.cut.len(piece), |it| it.sent_len(piece))
    }

    /// Whether it can be found out which blocks of a piece are wrong.
    pub(super) fn can_dispute(&self, piece: PieceIndex) -> bool {
        // Some of the memory stays for what is fetched.
        self.disputes.count() < DISPUTES_MAX.min(self.fetches_max / 2)
            && self
                .metainfo
                .as_ref()
                .and_then(|it| it.leaf_range(piece))
                .is_some()
    }

    /// Asks for the leaves of wrong pieces, whoever did not send them first; where nobody is left
    /// to ask it goes on without.
    pub(super) fn seek_leaves(&mut self, now: Time) {
        self.disputes.expire(now);
        for piece in self.disputes.seeking() {
            let sources = self.disputes.sources(piece);
            let helps = self.peers.iter().filter(|(id, peer)| {
                peer.is_ready()
                    && peer.is_v2
                    && peer.theirs.get(piece.as_usize())
                    && self.disputes.may_ask(piece, **id)
            });
            let is_source = |ip| sources.iter().any(|source| source.ip() == ip);
            let best = helps.min_by_key(|(_, peer)| is_source(peer.address.ip()));
            let best = best.map(|(&id, _)| id);
            let range = self.metainfo.as_ref().and_then(|it| it.leaf_range(piece));
            let asked = best.zip(range).filter(|&(id, _)| {
                let is_asked = self.disputes.ask(piece, id, now);
                is_asked.is_ok()
            });
            if let Some((id, range)) = asked {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.say(&Message::HashRequest(range));
                }
                self.dirty.insert(id);
            } else if let Ok(wrong) = self.disputes.give_up(piece) {
                self.blame(piece, &wrong);
            }
        }
    }

    /// Takes leaves: the peers whose blocks they do not fit are banned, the other blocks stay.
    /// Hashes that nobody waits for say nothing.
    pub(super) fn on_hashes(
        &mut self,
        id: StreamId,
        range: HashRange,
        hashes: &[Sha256],
        now: Time,
    ) -> Result<(), Why> {
        let (Some(piece), Some(metainfo)) = (self.asked_by(id, range), self.metainfo.clone())
        else {
            return Ok(());
        };
        let Some(leaves) = metainfo.proven_leaves(piece, hashes) else {
            return Err(Why::WrongHashes(piece));
        };
        let Ok(wrong) = self.disputes.settle(piece, id) else {
            return Ok(());
        };
        let len = self.cut.len(piece) as usize;
        let is_right = metainfo.check_blocks(piece, &wrong.whole.memory[..len], &leaves);
        let Wrong { whole, sources } = wrong;
        if is_right
            .iter()
            .take(sources.len())
            .all(|&is_right| is_right)
        {
            // Then the blocks are not what is wrong with it.
            self.blame(piece, &Wrong { whole, sources });
            return Ok(());
        }
        let culprits = sources
            .iter()
            .zip(&is_right)
            .filter(|(_, is_right)| !**is_right);
        let culprits = culprits.map(|(&source, _)| source);
        let culprits: Vec<_> = culprits.filter(|source| *source != NOBODY).collect();
        self.fetches
            .resume(piece, self.sent_len(piece), whole, &is_right);
        for culprit in culprits {
            self.ban(culprit, Why::SentWrong(piece), now);
        }
        self.all_dirty();
        Ok(())
    }

    pub(super) fn on_hash_reject(&mut self, id: StreamId, range: HashRange, now: Time) {
        if let Some(piece) = self.asked_by(id, range)
            && self.disputes.refused(piece, id).is_ok()
        {
            self.seek_leaves(now);
        }
    }

    /// The piece whose leaves a peer was asked for so.
    fn asked_by(&self, id: StreamId, range: HashRange) -> Option<PieceIndex> {
        let metainfo = self.metainfo.as_ref()?;
        let asked = self.disputes.asked_of(id).into_iter();
        let mut asked = asked.filter(|&piece| metainfo.leaf_range(piece) == Some(range));
        asked.next()
    }
}

//! What is said beyond BEP 3 and 6: who listens where, the info dictionary, other peers.
//!
//! Source: BEP 9, 10, 11, 21, 54.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Torrent, Why};
use crate::base::Time;
use crate::image::verify::Verify;
use crate::machine::StreamId;
use crate::swarm::limits::ORDERS_MAX;
use crate::swarm::peer::Peer;
use crate::swarm::wire::Message;
use crate::swarm::wire::extension::{
    ExtendedHandshake, Extension, ExtensionIds, HANDSHAKE_ID, parse_dont_have, parse_upload_only,
};
use crate::swarm::wire::metadata::MetadataMessage;
use crate::swarm::wire::pex::{Pex, PexFlags};

impl<V: Verify> Torrent<V> {
    /// Says what we know beyond the protocol, to a peer that listens to such.
    pub(super) fn introduce(&mut self, id: StreamId) {
        let mut known = vec![Extension::DontHave, Extension::UploadOnly];
        if self.info.is_some() {
            known.push(Extension::Metadata);
        }
        if !self.is_private {
            known.push(Extension::Pex);
        }
        let is_first_seed = self.partition.is_some();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let size = self.info.as_ref().map(|info| info.len());
        let handshake = ExtendedHandshake {
            ids: ExtensionIds::ours(&known),
            metadata_size: size.and_then(|size| u32::try_from(size).ok()),
            upload_only: self.have.is_full() && !is_first_seed,
            listen_port: self.listen_port,
            request_queue: u32::try_from(ORDERS_MAX).ok(),
            version: Some(concat!("Flashover ", env!("CARGO_PKG_VERSION")).to_owned()),
            your_ip: Some(peer.address.ip()),
        };
        peer.say(&Message::Extended(HANDSHAKE_ID, &handshake.emit()));
    }

    pub(super) fn on_extended(
        &mut self,
        id: StreamId,
        number: u8,
        payload: &[u8],
        now: Time,
    ) -> Result<(), Why> {
        if number == HANDSHAKE_ID {
            return self.on_introduction(id, payload);
        }
        match Extension::of_our_id(number) {
            Some(Extension::Metadata) => self.on_metadata(id, payload),
            Some(Extension::Pex) => self.on_pex(id, payload, now),
            Some(Extension::DontHave) => self.on_dont_have(id, payload),
            Some(Extension::UploadOnly) => self.on_upload_only(id, payload),
            None => Ok(()),
        }
    }

    fn on_introduction(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Why> {
        let said = ExtendedHandshake::parse(payload)
            .map_err(|_| Why::Senseless("It introduces itself in no known way"))?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.ids.update(&said.ids);
            peer.is_upload_only = said.upload_only;
            peer.listen_port = said.listen_port.or(peer.listen_port);
            if let (Some(ip), Some(port)) = (said.your_ip, self.listen_port) {
                self.addresses.learn_own(SocketAddr::new(ip, port));
            }
            let queue = said
                .request_queue
                .and_then(|count| usize::try_from(count).ok());
            peer.asked_max = queue.unwrap_or(peer.asked_max);
        }
        Ok(())
    }

    fn on_metadata(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Why> {
        let message = MetadataMessage::parse(payload)
            .map_err(|_| Why::Senseless("It speaks of metadata in no known way"))?;
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if let (MetadataMessage::Request(part), Some(number)) =
            (message, peer.ids.get(Extension::Metadata))
        {
            let answer = peer.metadata.answer(self.info.as_ref(), part);
            let payload = [&answer.head[..], &answer.part[..]].concat();
            peer.say(&Message::Extended(number, &payload));
        }
        Ok(())
    }

    fn on_pex(&mut self, id: StreamId, payload: &[u8], now: Time) -> Result<(), Why> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if self.is_private || !peer.pex_in.admits(now) {
            return Ok(());
        }
        let told = Pex::parse(payload)
            .map_err(|_| Why::Senseless("It speaks of other peers in no known way"))?;
        for &address in told.added.keys() {
            self.addresses.add(address);
        }
        Ok(())
    }

    fn on_dont_have(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Why> {
        let piece = parse_dont_have(payload)
            .map_err(|_| Why::Senseless("It lacks a piece in no known way"))?;
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.theirs.get(piece.as_usize())
        {
            peer.theirs.clear(piece.as_usize());
            self.picker.remove_holder(piece);
        }
        Ok(())
    }

    fn on_upload_only(&mut self, id: StreamId, payload: &[u8]) -> Result<(), Why> {
        let is_upload_only = parse_upload_only(payload)
            .map_err(|_| Why::Senseless("It says in no known way whether it wants anything"))?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.is_upload_only = is_upload_only;
        }
        Ok(())
    }

    /// Tells peers of each other, once a minute at most.
    pub(super) fn exchange_peers(&mut self, now: Time) {
        let is_due = |peer: &Peer| {
            peer.is_ready()
                && peer.ids.get(Extension::Pex).is_some()
                && now >= peer.pex_out.next_at()
        };
        if self.is_private || !self.peers.values().any(is_due) {
            return;
        }
        let ready = self.peers.iter().filter(|(_, peer)| peer.is_ready());
        let known: BTreeMap<SocketAddr, PexFlags> = ready
            .filter_map(|(id, peer)| Some((peer.listens_at(*id)?, flags(*id, peer))))
            .collect();
        for (&id, peer) in &mut self.peers {
            let Some(number) = peer.ids.get(Extension::Pex).filter(|_| peer.is_ready()) else {
                continue;
            };
            let mut others = known.clone();
            if let Some(own) = peer.listens_at(id) {
                others.remove(&own);
            }
            if let Some(pex) = peer.pex_out.poll(&others, now) {
                peer.say(&Message::Extended(number, &pex.emit()));
                self.dirty.insert(id);
            }
        }
    }
}

fn flags(id: StreamId, peer: &Peer) -> PexFlags {
    let seed = if peer.theirs.is_full() {
        PexFlags::SEED.0
    } else {
        0
    };
    let reachable = if id.is_incoming() {
        0
    } else {
        PexFlags::REACHABLE.0
    };
    PexFlags(seed | reachable)
}

//! Who holds the group's key and means harm.

use std::time::Duration;

use flashover::fec::Esi;
use flashover::multicast::keys::{Cipher as _, Key as _};
use flashover::multicast::receiver::Command;
use flashover::multicast::wire::lct::{Codepoint, HEADER_SIZE, Header};
use flashover::multicast::{Aes128Gcm, Secret, Session};

use super::super::cluster::{Cluster, GROUP_PORT, Plan, group, head_address};
use super::super::models::{Real, part};
use super::super::seeds;
use super::{PLAN, lossy};

/// A symbol of wrong bytes that only the hash of its piece can tell from a right one.
fn false_symbol(session: &Session, secret: &Secret, toi: u32, esi: u32, counter: u64) -> Vec<u8> {
    let header = Header {
        closes_session: false,
        codepoint: Codepoint::RaptorQ,
        remaining: 0,
        tsi: session.tsi,
        toi,
        epoch: session.epoch,
        counter,
        esi: Esi::new(esi).expect("it is small"),
    };
    let header = header.emit();
    let mut body = vec![0xee; usize::from(session.symbol_size)];
    let key = Aes128Gcm.data_key(secret, session.epoch, session.tsi);
    let tag = key.seal(counter, &header, &mut body);
    let datagram = [&header[..], &body, &tag].concat();
    assert_eq!(datagram.len(), HEADER_SIZE + body.len() + tag.len());
    datagram
}

/// A member of the group sends false symbols: that costs time, never a wrong byte. The pieces are
/// discarded and told, and what is poisoned again is left to the control channel.
#[test]
fn row_09_false_symbols_of_an_insider() {
    seeds(
        "faults::insiders::row_09_false_symbols_of_an_insider",
        3,
        |seed| {
            let plan = Plan { nodes: 4, ..PLAN };
            let mut cluster = Cluster::<Real>::new(seed, plan);
            cluster.set_links(lossy(0.01));
            cluster.start_all();
            let count = cluster.session.geometry.piece_count();
            for round in 0..200_u64 {
                cluster.run_for(Duration::from_millis(2));
                let (session, secret) = (cluster.session, cluster.secret.clone());
                let dice = cluster.world.random();
                let at = |dice: u64| u32::try_from(dice).expect("it is small");
                let (toi, esi) = (at(dice.below(u64::from(count))) + 1, at(dice.below(200)));
                // Numbers that the sender reaches only later.
                let counter = 6000 + round * 40 + cluster.symbols_sent();
                let datagram = false_symbol(&session, &secret, toi, esi, counter);
                let from = head_address(GROUP_PORT);
                cluster
                    .world
                    .inject(from, group(), &datagram, datagram.len());
            }
            cluster.run_to(
                "what multicast can bring",
                Duration::from_secs(60),
                |cluster| {
                    cluster.nodes.iter().all(|node| {
                        let journal = node.journal.borrow();
                        journal.stored.len() + journal.abandoned.len() >= count as usize
                    })
                },
            );
            cluster.check();
            let poisoned = |cluster: &Cluster<Real>, index: usize| {
                cluster.nodes[index].journal.borrow().poisoned
            };
            assert!(
                (0..4).all(|index| poisoned(&cluster, index) > 0),
                "every node tells of it"
            );
            // As the job does: over the control channel come the bytes that the manifest knows.
            for index in 0..cluster.nodes.len() {
                let abandoned = cluster.nodes[index].journal.borrow().abandoned.clone();
                let host = cluster.nodes[index].host;
                for piece in abandoned {
                    let geometry = cluster.session.geometry;
                    let bytes = part(&cluster.bundle, geometry, piece).to_vec();
                    let file = &mut cluster.world.files(host)[0];
                    file.write(geometry.offset(piece), &bytes)
                        .expect("there is room");
                    cluster.command(index, Command::Have(piece));
                }
            }
            cluster.run_to_completion(Duration::from_secs(10));
            cluster.check();
            assert_eq!(cluster.complete_count(), 4);
        },
    );
}

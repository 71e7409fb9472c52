//! What the hashes of v2 torrents are good for: piece layers for who has the name alone, leaves for
//! who got a wrong piece.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use flashover::swarm::Metainfo;
use flashover::swarm::metainfo::{Draft, DraftFile, Forms, PieceHashes};
use flashover::swarm::scout::{self, Scout};

use super::{Original, Swarm, address};

/// The original as a torrent of version 2.
fn v2_torrent(original: &Original) -> Arc<Metainfo> {
    let draft = Draft {
        name: b"test".to_vec(),
        files: vec![DraftFile {
            len: original.cut.total_bytes(),
            ..DraftFile::default()
        }],
        piece_length: original.cut.piece_bytes(),
        forms: Forms::V2,
        private: false,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        comment: None,
    };
    let plan = draft.plan().expect("it can be one");
    let hashes = plan.layout().pieces().map(|piece| {
        let (of, start) = (plan.piece(piece), original.cut.offset(piece));
        let start = usize::try_from(start).expect("it is small");
        let bytes = &original.bytes[start..start + original.cut.len(piece) as usize];
        PieceHashes::of(bytes, of.padding, of.width_log2, Forms::V2)
    });
    let hashes: Vec<PieceHashes> = hashes.collect();
    Arc::new(plan.finish(&hashes).expect("every piece is hashed"))
}

/// Of a v2 torrent the leaves tell which block is wrong: only that one is fetched again.
#[test]
fn of_wrong_pieces_the_right_blocks_are_kept() {
    crate::sim::seeds("swarm::wrong_blocks", 4, |seed| {
        let mut swarm = Swarm::new(seed, 128, 1 << 16);
        swarm.metainfo = Some(v2_torrent(&swarm.original));
        for number in 0..=8 {
            swarm.add(number == 0);
        }
        swarm.start(0, swarm.all(), false);
        swarm.start_liar(8);
        for number in 1..=7 {
            swarm.start(number, swarm.none(), false);
        }
        swarm.finish(1..=7, 6.0);
        swarm.run_for(0.5);
        let total = swarm.original.cut.total_bytes();
        let (mut wrong, mut again) = (0, 0);
        for number in 1..=7 {
            let heard = swarm.heard[number].borrow();
            let harm = heard.left.iter().filter(|(_, why)| why.is_harm());
            for (peer, why) in harm {
                assert_eq!(peer.ip(), address(8).ip(), "{why}\n{}", swarm.told());
            }
            wrong += heard.wrong as u64;
            again += heard.bytes_in - heard.bytes_wasted - total;
        }
        assert!(wrong > 0, "{}", swarm.told());
        let blocks = again as f64 / (wrong << 14) as f64;
        assert!(blocks < 2.0, "{blocks} blocks for each\n{}", swarm.told());
    });
}

/// Who has only the v2 name gets the piece layers too, also of whoever is not complete.
#[test]
fn a_scout_brings_the_piece_layers() {
    let mut swarm = Swarm::new(1, 700, 1 << 14);
    let metainfo = v2_torrent(&swarm.original);
    swarm.metainfo = Some(Arc::clone(&metainfo));
    for number in 0..=1 {
        swarm.add(number == 0);
    }
    swarm.start(0, swarm.all(), true);
    swarm.start(1, swarm.none(), false);
    let number = swarm.add(false);
    let found = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&found);
    let scout = Scout::new(metainfo.info().names(), [9; 20], 5);
    let host = swarm.hosts[number];
    swarm.world.start(host, scout, move |_, event| {
        if let scout::Event::Found(torrent) = event {
            tell.replace(Some(torrent));
        }
    });
    let peers = scout::Command::Peers(vec![address(1)]);
    swarm.world.command::<Scout>(host, peers);
    swarm.run_for(0.5);
    let found = found.borrow();
    assert_eq!(found.as_deref(), Some(&*metainfo));
}

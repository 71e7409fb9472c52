//! What a real sender sends when nothing is encrypted, for stock tools to read.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flashover::fec::RaptorQ;
use flashover::image::Geometry;
use flashover::machine::world::Conditions;
use flashover::multicast::sender::{self, Sender};
use flashover::multicast::{PieceHashes, PlainCipher, Session};

use super::cluster::{Cluster, Plan};
use super::models::{Parts, Real};

/// The real parts, without encryption.
struct Clear;

impl Parts for Clear {
    type Code = RaptorQ;
    type Cipher = PlainCipher;
    type Verify = PieceHashes;

    fn code(bundle: &Arc<[u8]>, geometry: Geometry) -> RaptorQ {
        Real::code(bundle, geometry)
    }

    fn cipher() -> PlainCipher {
        PlainCipher
    }

    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> PieceHashes {
        Real::verify(bundle, geometry)
    }
}

/// A bundle and every datagram that its sender sent until its receivers had it and it said goodbye.
pub(crate) struct Cast {
    pub(crate) bundle: Arc<[u8]>,
    pub(crate) session: Session,
    pub(crate) datagrams: Vec<Vec<u8>>,
}

/// Casts five pieces, the last one short, to two receivers that lose some, so that repair is sent.
pub(crate) fn cast() -> Cast {
    let plan = Plan {
        nodes: 2,
        bundle_size: (4 << 16) + 10_000,
        piece_log2: 16,
        symbol_size: 1408,
        rate_bytes_per_s_max: Some(5_000_000),
        blocks: 6,
    };
    let mut cluster = Cluster::<Clear>::new(1, plan);
    cluster.set_links(Conditions {
        loss: 0.08,
        ..Conditions::default()
    });
    let head = cluster.head;
    let datagrams = Rc::new(RefCell::new(Vec::new()));
    let tape = Rc::clone(&datagrams);
    cluster
        .world
        .set_tap(Box::new(move |_, host, transmit, bytes| {
            if host == head {
                let split = bytes.chunks(transmit.segment_size).map(<[u8]>::to_vec);
                tape.borrow_mut().extend(split);
            }
        }));
    cluster.start_all();
    cluster.run_to_completion(Duration::from_secs(30));
    cluster
        .world
        .command::<Sender<RaptorQ, PlainCipher>>(head, sender::Command::Stop);
    cluster.run_for(Duration::from_secs(2));
    Cast {
        bundle: Arc::clone(&cluster.bundle),
        session: cluster.session,
        datagrams: datagrams.take(),
    }
}

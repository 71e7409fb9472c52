//! The sender.

use std::time::Duration;

use flashover::base::PieceIndex;
use flashover::machine::DiskError;
use flashover::multicast::receiver::Command;
use flashover::multicast::sender::Event;

use super::super::cluster::{Cluster, Node, REPORT_PORT, head_address};
use super::super::models::{Modelled, Parts};
use super::super::seeds;
use super::{PLAN, lossy};

#[test]
fn row_22_head_restarts() {
    seeds("faults::head::row_22_head_restarts", 10, |seed| {
        let mut cluster = Cluster::<Modelled>::new(seed, PLAN);
        cluster.set_links(lossy(0.01));
        cluster.start_all();
        cluster.run_to("half of the pieces", Duration::from_secs(20), |cluster| {
            cluster
                .nodes
                .iter()
                .all(|node| node.journal.borrow().stored.len() >= 15)
        });
        let first = cluster.session.epoch;
        cluster.world.crash(cluster.head);
        cluster.run_for(Duration::from_millis(500));
        let stored_by_all = |piece: &PieceIndex| {
            let has = |node: &Node| node.journal.borrow().stored.contains(piece);
            cluster.nodes.iter().all(has)
        };
        let safe: Vec<PieceIndex> = cluster
            .session
            .geometry
            .pieces()
            .filter(stored_by_all)
            .collect();
        assert!(safe.len() >= 10);
        cluster.start_head();
        assert_ne!(cluster.session.epoch, first);
        cluster.run_for(Duration::from_millis(100));
        rekey(&mut cluster);
        cluster.run_to_completion(Duration::from_secs(60));
        cluster.check();
        let unknown = cluster
            .nodes
            .iter()
            .filter(|node| node.journal.borrow().unknown_epoch.is_some());
        assert!(
            unknown.count() > 0,
            "nodes see that the sender started anew"
        );
        let ledger = cluster.ledger.borrow();
        for piece in safe {
            let sent = ledger
                .symbols
                .get(&(cluster.session.epoch.0, piece.get() + 1));
            assert_eq!(sent, None, "{piece} was stored by all and is sent again");
        }
    });
}

/// Tells every node the new epoch and secret, as the control channel does.
fn rekey<P: Parts>(cluster: &mut Cluster<P>) {
    for index in 0..cluster.nodes.len() {
        let key = Command::Key {
            epoch: cluster.session.epoch,
            secret: cluster.secret.clone(),
            reports_to: head_address(REPORT_PORT),
        };
        cluster.command(index, key);
    }
}

/// A piece that rotted on the head's disk is named, and not sent.
#[test]
fn row_29_bit_rot_in_the_source() {
    const ROTTEN: u32 = 5;
    let mut cluster = Cluster::<Modelled>::new(9, PLAN);
    cluster.set_links(lossy(0.01));
    let (at, head) = (u64::from(ROTTEN) << PLAN.piece_log2, cluster.head);
    let right = cluster.bundle[usize::try_from(at).expect("it is small")];
    let written = cluster.world.files(head)[0].write(at, &[right ^ 1]);
    assert_eq!(written, Ok(()));
    cluster.start_all();
    cluster.run_to("all other pieces", Duration::from_secs(30), |cluster| {
        let stored = |node: &Node| node.journal.borrow().stored.len();
        cluster.nodes.iter().all(|node| stored(node) == 30)
    });
    cluster.check();
    let named = Event::ReadFailed {
        piece: PieceIndex::new(ROTTEN),
        error: DiskError::Damaged,
    };
    let log = cluster.head_log.borrow();
    assert!(log.iter().any(|(_, event)| *event == named));
    for node in &cluster.nodes {
        let journal = node.journal.borrow();
        assert!(journal.poisoned == 0 && !journal.stored.contains(&PieceIndex::new(ROTTEN)));
    }
}

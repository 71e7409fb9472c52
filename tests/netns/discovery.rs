//! Local discovery over real sockets: peers of one network find each other without a tracker.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flashover::deploy::swarm::lsd::{LocalDiscovery, Options};
use flashover::engine::Interface;
use flashover::swarm::lsd::Found;

use super::lab::{Lab, Setup, in_lab};

/// What it may take until a peer is heard; it is a second or so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a discovery on a node.
pub(crate) fn start(lab: &Lab, node: &str, port: u16) -> (LocalDiscovery, Receiver<Found>) {
    let (hears, heard) = channel();
    let options = Options {
        port,
        interval: Duration::from_secs(5),
        interval_min: Duration::from_millis(500),
        seed: port.into(),
    };
    let started = lab.within(node, || {
        let interface = Interface::find("eth0").expect("every node has it");
        let found = move |found| {
            // The test has seen enough already.
            let _enough = hears.send(found);
        };
        LocalDiscovery::start(&[interface], &options, found)
    });
    (started.expect("it can look for peers"), heard)
}

/// The next peer that is heard.
pub(crate) fn next(heard: &Receiver<Found>) -> Found {
    heard.recv_timeout(PATIENCE).expect("a peer is heard")
}

#[test]
fn peers_of_one_network_find_each_other_by_what_they_seek() {
    let setup = Setup {
        nodes: 3,
        loss_percent: 0.0,
    };
    in_lab(setup, |lab| {
        let [one, other] = [[1; 20], [2; 20]];
        let (first, first_hears) = start(lab, "node1", 1001);
        let (second, second_hears) = start(lab, "node2", 1002);
        let (third, third_hears) = start(lab, "node3", 1003);
        first.seek(one);
        third.seek(other);
        second.seek(one);
        let at = |node: u8, port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 10 + node), port));
        let found = |info_hash, peer| Found { info_hash, peer };
        assert_eq!(next(&first_hears), found(one, at(2, 1002)));
        assert_eq!(next(&second_hears), found(one, at(1, 1001)));
        // Nobody else seeks what the third one does, until the first does.
        assert!(third_hears.try_recv().is_err());
        first.seek(other);
        assert_eq!(next(&third_hears), found(other, at(1, 1001)));
        assert_eq!(next(&first_hears), found(other, at(3, 1003)));
    });
}

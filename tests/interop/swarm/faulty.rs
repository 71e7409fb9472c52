//! Peers that do wrong, beside a sound seeder that is slow enough for them to be asked: one that
//! sends noise, one that only says hello, one that promises everything and sends nothing.

use std::path::Path;
use std::time::Duration;

use super::pairs::{Pair, Swarm, end_of};
use super::peers::{Peer, Tracker, address};
use crate::netns::lab::{Lab, Process, Setup, in_lab, until};

/// Who does wrong, on the nodes after those of the pair.
const FAULTY: [&str; 3] = ["corrupt", "silent", "promising"];
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn stock_libtorrent_finishes_beside_faulty_peers() {
    in_lab(Setup::nodes(5), |lab| {
        let said = finishes_beside_faulty(lab, &Pair::new("libtorrent", "libtorrent"));
        let banned = format!("peer {}:6881 banned peer", address("node3"));
        assert!(said.contains(&banned), "{said}");
    });
}

/// Lets the pair do its work beside all three, and gives what the leecher said.
fn finishes_beside_faulty(lab: &Lab, pair: &Pair) -> String {
    lab.shell("lab_rate node1 10");
    let swarm = Swarm::new(lab, pair, 0);
    let tracker = Tracker::start(lab, &[&swarm.torrent]);
    let faulty: Vec<Process> = FAULTY
        .iter()
        .zip(3..)
        .map(|(kind, number)| {
            let folder = lab.scratch().join(kind);
            Peer::new(kind, &format!("node{number}")).seed(lab, &swarm.torrent_file(), &folder)
        })
        .collect();
    let seeder = swarm.seed();
    let known = until(LIMIT, || {
        (tracker.seeds(&swarm.torrent) == 1 + FAULTY.len()).then_some(())
    });
    let leecher = swarm.fetch();
    let _in_time = until(LIMIT, || swarm.is_done().then_some(()));
    let failure = swarm.failure();
    drop((seeder, leecher, faulty));
    let scratch = lab.scratch();
    let words = FAULTY.map(|kind| end_of(&scratch.join(kind).with_extension("log")));
    assert!(
        known.is_some() && failure.is_none(),
        "{failure:?}\n{words:?}"
    );
    for (kind, word) in [
        ("corrupt", "asked"),
        ("silent", "hello"),
        ("promising", "asked"),
    ] {
        let log = scratch.join(kind).with_extension("log");
        assert!(says(&log, word, &address("node2")), "{kind}: {words:?}");
    }
    std::fs::read_to_string(swarm.leecher_log()).expect("what it says is text")
}

/// Whether a faulty peer saw that of somebody: otherwise it was not tried.
fn says(log: &Path, word: &str, of: &str) -> bool {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().any(|line| {
        let mut words = line.split(' ');
        words.next() == Some(word) && words.next() == Some(of)
    })
}

//! Peers that do wrong, beside a sound seeder that is slow enough for them to be asked: one that
//! sends noise, one that only says hello, one that promises everything and sends nothing.

use std::path::Path;
use std::time::Duration;

use flashover::capture::torrent::Forms;

use super::pairs::{Pair, Swarm, end_of};
use super::peers::{Peer, address};
use crate::netns::lab::{Lab, Process, Setup, in_lab, until};

/// Who does wrong, and on which nodes.
const FAULTY: [(&str, &str); 3] = [
    ("corrupt", "node3"),
    ("silent", "node4"),
    ("promising", "node5"),
];
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn stock_libtorrent_finishes_beside_faulty_peers() {
    in_lab(Setup::nodes(5), |lab| {
        let pair = Pair::told("libtorrent", "libtorrent");
        let said = finishes_beside(lab, &pair, &FAULTY);
        let banned = format!("peer {}:6881 banned peer", address("node3"));
        assert!(said.contains(&banned), "{said}");
    });
}

#[test]
fn we_finish_beside_faulty_peers_and_ban_the_one_that_sends_noise() {
    in_lab(Setup::nodes(5), |lab| {
        bans_the_corrupt_alone(lab, &Pair::told("libtorrent", "flashover"));
    });
}

/// Of a hybrid the seed is asked for the leaves of what the corrupt one sent by version 1.
#[test]
fn the_corrupt_peer_of_a_hybrid_is_banned_alone_too() {
    in_lab(Setup::nodes(5), |lab| {
        let forms = Forms::Hybrid;
        let pair = Pair::told("flashover", "flashover");
        bans_the_corrupt_alone(lab, &Pair { forms, ..pair });
    });
}

fn bans_the_corrupt_alone(lab: &Lab, pair: &Pair) {
    let said = finishes_beside(lab, pair, &FAULTY);
    let named = |node: &str| {
        let peer = format!("{}:", address(node));
        let mut warnings = said.lines().filter(|line| line.contains("\"warning\""));
        warnings.any(|line| line.contains(&peer))
    };
    assert!(named("node3"), "the corrupt one is named: {said}");
    for node in ["node1", "node4", "node5"] {
        assert!(!named(node), "{node} sent nothing wrong: {said}");
    }
}

// Without the corrupt one: libtorrent mixes blocks of all who have a piece, and bans whoever had a
// part in four bad ones, the honest too. Of a seed that shows few pieces at a time it mixes more.
#[test]
fn stock_libtorrent_finishes_from_our_seed_beside_peers_that_send_nothing() {
    in_lab(Setup::nodes(5), |lab| {
        let pair = Pair::told("flashover", "libtorrent");
        finishes_beside(lab, &pair, &FAULTY[1..]);
    });
}

/// Lets the pair do its work beside those, and gives what the leecher said.
fn finishes_beside(lab: &Lab, pair: &Pair, faulty: &[(&'static str, &str)]) -> String {
    lab.shell("lab_rate node1 10");
    let swarm = Swarm::new(lab, pair, 0);
    let log = |kind: &str| lab.scratch().join(kind).with_extension("log");
    let start = |&(kind, node): &(&'static str, &str)| {
        let peer = Peer::new(kind, node);
        peer.seed(lab, &swarm.torrent_file(), &lab.scratch().join(kind))
    };
    let processes: Vec<Process> = faulty.iter().map(start).collect();
    let seeder = swarm.seed();
    let are_ready = until(LIMIT, || {
        let mut all = faulty.iter();
        all.all(|(kind, _)| says(&log(kind), "ready", None))
            .then_some(())
    });
    let nodes: Vec<&str> = faulty.iter().map(|&(_, node)| node).collect();
    let leecher = swarm.fetch(&nodes);
    let _in_time = until(LIMIT, || swarm.is_done().then_some(()));
    let failure = swarm.failure();
    drop((seeder, leecher, processes));
    let words: Vec<String> = faulty.iter().map(|(kind, _)| end_of(&log(kind))).collect();
    assert!(
        are_ready.is_some() && failure.is_none(),
        "{}\n{}",
        failure.unwrap_or_default(),
        words.join("\n")
    );
    for (kind, _) in faulty {
        let word = if *kind == "silent" { "hello" } else { "asked" };
        let seen = says(&log(kind), word, Some(&address("node2")));
        assert!(seen, "{kind}: {}", words.join("\n"));
    }
    std::fs::read_to_string(swarm.leecher_log()).expect("what it says is text")
}

/// Whether a faulty peer saw that of somebody: otherwise it was not tried.
fn says(log: &Path, word: &str, of: Option<&str>) -> bool {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().any(|line| {
        let mut words = line.split(' ');
        words.next() == Some(word) && of.is_none_or(|of| words.next() == Some(of))
    })
}

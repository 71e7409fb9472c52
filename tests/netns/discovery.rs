//! Local discovery over real sockets: peers of one network find each other without a tracker.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flashover::deploy::swarm::lsd::{LocalDiscovery, Options};
use flashover::engine::Interface;
use flashover::swarm::lsd::Found;

use super::fleet::FLASHOVER;
use super::lab::{Lab, Process, Setup, in_lab, noise, until};

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

/// What `seed` or `fetch` says of its work on a node.
fn swarm(lab: &Lab, node: &str, arguments: &[&str]) -> Process {
    let mut command = lab.command(node, FLASHOVER);
    command
        .args(arguments)
        .args(["--json-lines"])
        .current_dir(lab.scratch());
    lab.spawn(node, command, &lab.scratch().join(node))
}

/// Makes a file and its torrent.
fn create(lab: &Lab, more: &[&str]) {
    let data = lab.scratch().join("data");
    std::fs::write(data, noise(1, 3_000_000)).expect("the scratch has room");
    let mut create = lab.command("node1", FLASHOVER);
    create
        .args(["torrent", "create", "data"])
        .args(more)
        .current_dir(lab.scratch());
    assert!(create.status().expect("flashover starts").success());
}

/// No tracker, and nobody says where anybody is.
#[test]
fn a_torrent_is_fetched_from_a_seed_of_the_same_network() {
    in_lab(Setup::nodes(2), |lab| {
        let at = |name: &str| lab.scratch().join(name);
        create(lab, &["--public"]);
        let seeds = swarm(lab, "node1", &["seed", "data.torrent"]);
        let is_up = || std::fs::read_to_string(at("node1")).ok()?.find("Seeding");
        assert!(until(PATIENCE, is_up).is_some());
        let mut magnet = lab.command("node1", FLASHOVER);
        magnet.args(["torrent", "magnet"]).arg(at("data.torrent"));
        let link = magnet.output().expect("flashover starts").stdout;
        let link = String::from_utf8(link).expect("a link is text");
        for (torrent, into) in [("data.torrent", "by-file"), (link.trim(), "by-link")] {
            let fetch = ["fetch", torrent, "--into", into, "--deadline", "60s"];
            let fetches = swarm(lab, "node2", &[&fetch[..], &["--seed-time", "0s"]].concat());
            let ended = fetches.end_within(Duration::from_secs(90));
            let said = std::fs::read_to_string(at("node2")).unwrap_or_default();
            assert!(ended.is_some_and(|status| status.success()), "{said}");
            let (got, data) = (std::fs::read(at(into)).ok(), std::fs::read(at("data")).ok());
            assert!(got.is_some() && got == data, "{into}: {said}");
        }
        drop(seeds);
    });
}

/// Who seeds a private torrent is not found, unless both say so.
#[test]
fn a_private_torrent_is_looked_for_only_by_who_says_so() {
    in_lab(Setup::nodes(2), |lab| {
        let at = |name: &str| lab.scratch().join(name);
        create(lab, &[]);
        let seeds = swarm(lab, "node1", &["seed", "data.torrent", "--lsd"]);
        let is_up = || std::fs::read_to_string(at("node1")).ok()?.find("Seeding");
        assert!(until(PATIENCE, is_up).is_some());
        let fetch = |deadline: &str, more: &[&str]| {
            let arguments = ["fetch", "data.torrent", "--into", "got"];
            let rest = ["--deadline", deadline, "--seed-time", "0s"];
            let all = [&arguments[..], &rest, more].concat();
            swarm(lab, "node2", &all).end_within(Duration::from_secs(90))
        };
        let said = || std::fs::read_to_string(at("node2")).unwrap_or_default();
        let alone = fetch("12s", &[]);
        assert_eq!(
            alone.and_then(|status| status.code()),
            Some(6),
            "{}",
            said()
        );
        let asked = fetch("60s", &["--lsd"]);
        assert!(asked.is_some_and(|status| status.success()), "{}", said());
        drop(seeds);
    });
}

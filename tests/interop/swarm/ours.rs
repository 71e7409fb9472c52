//! Our seeder and our leecher with stock clients, and with each other.

use flashover::capture::torrent::Forms;

use super::pairs::{Pair, Way, pass};
use super::peers::STOCK;
use crate::netns::lab::{Setup, in_lab};

const OURS: &str = "flashover";

#[test]
fn we_fetch_from_every_stock_seed() {
    let pairs = STOCK.map(|stock| Pair::told(stock, OURS));
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
fn libtorrent_and_we_fetch_from_our_seed() {
    let pairs = [Pair::told(OURS, "libtorrent"), Pair::told(OURS, OURS)];
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
fn torrents_of_version_2_and_of_both_are_fetched_too() {
    let mut pairs = Vec::new();
    for forms in [Forms::Hybrid, Forms::V2] {
        for (seeder, leecher) in [(OURS, "libtorrent"), ("libtorrent", OURS), (OURS, OURS)] {
            let pair = Pair::told(seeder, leecher);
            pairs.push(Pair { forms, ..pair });
        }
    }
    // rqbit knows version 1 only. aria2 1.36 and Transmission 3.00 take no torrents of both,
    // whoever made them: one gets another infohash, the other does not read them (docs/ERRATA.md).
    let pair = Pair::told("rqbit", OURS);
    let forms = Forms::Hybrid;
    pairs.push(Pair { forms, ..pair });
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
fn peers_are_found_by_trackers_and_torrents_by_magnet_links() {
    let of = |seeder, leecher, way| Pair {
        way,
        ..Pair::new(seeder, leecher)
    };
    let pairs = [
        of(OURS, OURS, Way::HttpTracker),
        of(OURS, "aria2", Way::HttpTracker),
        of(OURS, "transmission", Way::HttpTracker),
        of("libtorrent", OURS, Way::HttpTracker),
        of(OURS, OURS, Way::UdpTracker),
        of(OURS, "libtorrent", Way::UdpTracker),
        of("transmission", OURS, Way::UdpTracker),
        of(OURS, OURS, Way::Magnet),
        of(OURS, "libtorrent", Way::Magnet),
        of(OURS, "transmission", Way::Magnet),
        of("libtorrent", OURS, Way::Magnet),
        of("aria2", OURS, Way::Magnet),
    ];
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

/// Piece layers come and go by hash requests: without them no piece of such a torrent is proven.
#[test]
fn magnet_links_of_version_2_are_enough() {
    let mut pairs = Vec::new();
    for (forms, is_tree) in [
        (Forms::V2, false),
        (Forms::V2, true),
        (Forms::Hybrid, false),
        (Forms::Hybrid, true),
    ] {
        for (seeder, leecher) in [(OURS, "libtorrent"), ("libtorrent", OURS), (OURS, OURS)] {
            pairs.push(Pair {
                forms,
                is_tree,
                way: Way::V2Magnet,
                ..Pair::new(seeder, leecher)
            });
        }
    }
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
fn directories_go_from_us_and_to_us() {
    let mut pairs = Vec::new();
    for forms in [Forms::V1, Forms::V2, Forms::Hybrid] {
        for (seeder, leecher) in [(OURS, "libtorrent"), ("libtorrent", OURS)] {
            let pair = Pair::told(seeder, leecher);
            let is_tree = true;
            pairs.push(Pair {
                forms,
                is_tree,
                ..pair
            });
        }
    }
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

/// A piece of such a torrent is of several files.
#[test]
fn directories_without_padding_go_from_us_and_to_us() {
    let pairs = [(OURS, "libtorrent"), ("libtorrent", OURS), (OURS, OURS)].map(|(from, to)| Pair {
        is_tree: true,
        is_stock: true,
        ..Pair::told(from, to)
    });
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
fn a_stock_web_server_is_enough() {
    let pair = |is_tree| Pair {
        way: Way::WebSeed,
        is_tree,
        ..Pair::new("http", OURS)
    };
    let pairs = [pair(false), pair(true)];
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

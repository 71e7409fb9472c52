//! Stock clients among themselves: where they fail, the lab or our way to start them is wrong, and
//! nothing that is found out about ours counts.

use flashover::capture::torrent::Forms;

use super::pairs::{Pair, Way, pass};
use super::peers::STOCK;
use crate::netns::lab::{Setup, in_lab};

#[test]
fn stock_clients_fetch_from_each_other() {
    let pairs = [
        Pair::new("libtorrent", "aria2"),
        Pair::new("aria2", "transmission"),
        Pair::new("transmission", "libtorrent"),
        Pair::new("libtorrent", "rqbit"),
        Pair::new("rqbit", "aria2"),
    ];
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
#[ignore = "tools/test --all"]
fn every_stock_client_fetches_from_every_other() {
    let all = |seeder| STOCK.map(|leecher| Pair::new(seeder, leecher));
    let mut pairs = STOCK.map(all).concat();
    // These two do not get on with each other, neither way, where the torrent is private.
    let strangers = ["rqbit", "transmission"];
    pairs.retain(|pair| {
        let (seeder, leecher) = (pair.seeder, pair.leecher);
        seeder == leecher || !strangers.contains(&seeder) || !strangers.contains(&leecher)
    });
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

#[test]
#[ignore = "tools/test --all"]
fn stock_clients_fetch_by_every_way_that_they_know() {
    let of = |seeder, leecher, way| Pair {
        way,
        ..Pair::new(seeder, leecher)
    };
    let mut pairs = vec![
        of("libtorrent", "libtorrent", Way::UdpTracker),
        // aria2 knows no UDP trackers where its DHT is off.
        of("libtorrent", "transmission", Way::UdpTracker),
        of("transmission", "libtorrent", Way::UdpTracker),
        of("libtorrent", "rqbit", Way::UdpTracker),
        of("libtorrent", "libtorrent", Way::Magnet),
        of("libtorrent", "aria2", Way::Magnet),
        of("libtorrent", "transmission", Way::Magnet),
        of("libtorrent", "rqbit", Way::Magnet),
        of("transmission", "libtorrent", Way::Magnet),
        Pair::told("libtorrent", "libtorrent"),
        of("http", "libtorrent", Way::WebSeed),
        of("http", "aria2", Way::WebSeed),
        of("http", "transmission", Way::WebSeed),
    ];
    for forms in [Forms::Hybrid, Forms::V2] {
        let pair = Pair::new("libtorrent", "libtorrent");
        pairs.push(Pair { forms, ..pair });
    }
    in_lab(Setup::nodes(2 * pairs.len()), |lab| pass(lab, &pairs));
}

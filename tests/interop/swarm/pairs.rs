//! One seeder and one leecher, each alone on a node, and a torrent that nobody else has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flashover::base::event::Events;
use flashover::capture::torrent::{CreateOptions, Forms, Magnet, create, save};
use flashover::swarm::{InfoHash, InfoHashes, Metainfo};

use super::peers::{Peer, Tracker, address, web_server};
use crate::netns::lab::{HEAD, Lab, Process, noise, until};

/// Not a whole number of pieces, nor of blocks.
const CONTENT_BYTES: usize = (3 << 20) + 12_345;
/// The files of a directory.
const TREE: [&str; 4] = [
    "content/a/large",
    "content/a/b/small",
    "content/a/b/empty",
    "content/z",
];
const PIECE_BYTES: u32 = 1 << 16;
/// How long seeders may take to be known, and then leechers to have everything.
const LIMIT: Duration = Duration::from_secs(90);

/// What is tried.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) seeder: &'static str,
    pub(super) leecher: &'static str,
    pub(super) forms: Forms,
    pub(super) way: Way,
    /// Whether it is a directory of files.
    pub(super) is_tree: bool,
    /// Whether a stock tool made the torrent; of a directory it has no padding then.
    pub(super) is_stock: bool,
}

/// How the leecher comes to the torrent and to the content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// By a torrent that names an HTTP tracker.
    HttpTracker,
    /// By a torrent that names a UDP tracker.
    UdpTracker,
    /// By a magnet link that names an HTTP tracker.
    Magnet,
    /// By a magnet link that has the v2 name alone, and names an HTTP tracker.
    V2Magnet,
    /// By a torrent that names a web server, without peers.
    WebSeed,
    /// By a torrent without trackers; the leecher is told of the seeder.
    Told,
}

impl Pair {
    /// Version 1 by an HTTP tracker.
    pub(super) fn new(seeder: &'static str, leecher: &'static str) -> Self {
        Self {
            seeder,
            leecher,
            forms: Forms::V1,
            way: Way::HttpTracker,
            is_tree: false,
            is_stock: false,
        }
    }

    /// Version 1, without trackers.
    pub(super) fn told(seeder: &'static str, leecher: &'static str) -> Self {
        Self {
            way: Way::Told,
            ..Self::new(seeder, leecher)
        }
    }
}

/// Lets all pairs of `pairs` do their work at the same time, on two nodes each.
///
/// # Panics
/// With what the clients said, if a leecher does not come to have the very content in time.
pub(super) fn pass(lab: &Lab, pairs: &[Pair]) {
    let all: Vec<Swarm<'_>> = (0..pairs.len())
        .map(|index| Swarm::new(lab, &pairs[index], index))
        .collect();
    let torrents: Vec<&Metainfo> = all.iter().map(|swarm| &swarm.torrent).collect();
    let tracker = Tracker::start(lab, &torrents);
    let seeders: Vec<Process> = all.iter().map(Swarm::seed).collect();
    let announced = until(LIMIT, || {
        let mut tracked = all.iter().filter(|swarm| swarm.pair.is_tracked());
        let known = |swarm: &Swarm<'_>| tracker.seeds(&swarm.names_asked()) > 0;
        tracked.all(known).then_some(())
    });
    let leechers: Vec<Process> = all.iter().map(|swarm| swarm.fetch(&[])).collect();
    let _in_time = until(LIMIT, || all.iter().all(Swarm::is_done).then_some(()));
    let failed: Vec<String> = all.iter().filter_map(Swarm::failure).collect();
    drop((seeders, leechers));
    assert!(
        failed.is_empty(),
        "all announced: {}\n{}\n{} of {} failed",
        announced.is_some(),
        failed.join("\n"),
        failed.len(),
        all.len()
    );
}

impl Pair {
    fn is_tracked(&self) -> bool {
        ![Way::WebSeed, Way::Told].contains(&self.way)
    }
}

/// A pair at work.
pub(super) struct Swarm<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    /// The nodes of seeder and leecher.
    nodes: [String; 2],
    folder: PathBuf,
    /// Every file and its bytes.
    contents: Vec<(&'static str, Vec<u8>)>,
    pub(super) torrent: Metainfo,
}

impl<'a> Swarm<'a> {
    pub(super) fn new(lab: &'a Lab, pair: &'a Pair, index: usize) -> Self {
        let folder = lab.scratch().join(format!("pair{index}"));
        let nodes = [2 * index + 1, 2 * index + 2].map(|number| format!("node{number}"));
        std::fs::create_dir_all(folder.join("seed")).expect("the scratch has room");
        let seed = index as u64 + 1;
        let contents = if pair.is_tree {
            let sizes = [CONTENT_BYTES, 100, 0, 70_001];
            let of = |(name, size)| (name, noise(seed, size));
            let files = TREE.into_iter().zip(sizes).map(of);
            // Transmission leaves out what is empty.
            files
                .filter(|(_, bytes)| !pair.is_stock || !bytes.is_empty())
                .collect()
        } else {
            vec![("content", noise(seed, CONTENT_BYTES))]
        };
        for (name, bytes) in &contents {
            let path = folder.join("seed").join(name);
            let above = path.parent().expect("it lies in the folder");
            std::fs::create_dir_all(above).expect("the scratch has room");
            std::fs::write(&path, bytes).expect("the scratch has room");
        }
        let source = folder.join("seed/content");
        let options = CreateOptions {
            piece_length: Some(PIECE_BYTES),
            forms: pair.forms,
            trackers: match pair.way {
                Way::HttpTracker | Way::Magnet | Way::V2Magnet => {
                    vec![format!("http://{HEAD}:6969/announce")]
                }
                Way::UdpTracker => vec![format!("udp://{HEAD}:6969/announce")],
                Way::WebSeed | Way::Told => Vec::new(),
            },
            web_seeds: match pair.way {
                Way::WebSeed if pair.is_tree => vec![format!("http://{}:8080", address(&nodes[0]))],
                Way::WebSeed => vec![format!("http://{}:8080/content", address(&nodes[0]))],
                Way::HttpTracker | Way::UdpTracker | Way::Magnet | Way::V2Magnet | Way::Told => {
                    Vec::new()
                }
            },
            // libtorrent gives nobody the metadata of a private torrent.
            public: [Way::Magnet, Way::V2Magnet].contains(&pair.way),
            ..CreateOptions::default()
        };
        let torrent = if pair.is_stock {
            create_by_transmission(&source, &folder.join("torrent"))
        } else {
            create(&source, &options, 1, &Events::ignore()).expect("it can be made")
        };
        save(&torrent, &folder.join("torrent")).expect("the scratch has room");
        Self {
            lab,
            pair,
            nodes,
            folder,
            contents,
            torrent,
        }
    }

    pub(super) fn seed(&self) -> Process {
        let [node, _] = &self.nodes;
        let folder = self.folder.join("seed");
        if self.pair.way == Way::WebSeed {
            return web_server(self.lab, node, &folder);
        }
        Peer::new(self.pair.seeder, node).seed(self.lab, &self.torrent_file(), &folder)
    }

    /// Starts the leecher; of the nodes `others` it is told too.
    pub(super) fn fetch(&self, others: &[&str]) -> Process {
        let [seeder, node] = &self.nodes;
        let torrent = match self.pair.way {
            Way::Magnet => PathBuf::from(Magnet::of(&self.torrent).to_string()),
            Way::V2Magnet => PathBuf::from(v2_magnet(&self.torrent).to_string()),
            Way::HttpTracker | Way::UdpTracker | Way::WebSeed | Way::Told => self.torrent_file(),
        };
        let mut peer = Peer::new(self.pair.leecher, node);
        if self.pair.way == Way::Told {
            peer = peer.told_of(seeder);
        }
        for other in others {
            peer = peer.told_of(other);
        }
        peer.fetch(self.lab, &torrent, &self.folder.join("fetch"))
    }

    /// The names by which the leecher asks the tracker.
    fn names_asked(&self) -> Vec<[u8; 20]> {
        let names = self.torrent.info().names();
        let is_asked =
            |name: &InfoHash| self.pair.way != Way::V2Magnet || matches!(name, InfoHash::V2(_));
        names
            .iter()
            .filter(is_asked)
            .map(|name| name.wire())
            .collect()
    }

    pub(super) fn torrent_file(&self) -> PathBuf {
        self.folder.join("torrent")
    }

    pub(super) fn leecher_log(&self) -> PathBuf {
        self.folder.join("fetch.log")
    }

    /// Whether the leecher says so.
    pub(super) fn is_done(&self) -> bool {
        self.folder.join("fetch.done").exists()
    }

    /// What is wrong, with what both said.
    pub(super) fn failure(&self) -> Option<String> {
        let is_there = |(name, bytes): &(&str, Vec<u8>)| {
            let got = std::fs::read(self.folder.join("fetch").join(name));
            got.is_ok_and(|got| got == *bytes)
        };
        let is_same = self.contents.iter().all(is_there);
        if self.is_done() && is_same {
            return None;
        }
        Some(format!(
            "{:?}: done {}, same {is_same}\n--- seeder\n{}\n--- leecher\n{}",
            self.pair,
            self.is_done(),
            end_of(&self.folder.join("seed.log")),
            end_of(&self.leecher_log())
        ))
    }
}

/// A torrent of version 1 without trackers.
fn create_by_transmission(source: &Path, torrent: &Path) -> Metainfo {
    let mut command = Command::new("transmission-create");
    command.args(["-s", &(PIECE_BYTES >> 10).to_string(), "-o"]);
    let made = command.arg(torrent).arg(source).output();
    let made = made.expect("transmission-create is there");
    assert!(made.status.success(), "{made:?}");
    let bytes = std::fs::read(torrent).expect("it was made");
    Metainfo::parse(&bytes).expect("it is a torrent")
}

/// A link with the v2 name alone.
fn v2_magnet(torrent: &Metainfo) -> Magnet {
    let v2 = torrent.info().names().v2();
    Magnet {
        names: InfoHashes::new(None, v2).expect("it is a v2 torrent"),
        ..Magnet::of(torrent)
    }
}

/// The last of a log, without what was written over.
pub(super) fn end_of(log: &Path) -> String {
    let said = std::fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().map(|line| {
        let shown = line.rsplit('\r').find(|shown| !shown.trim().is_empty());
        shown.unwrap_or_default().trim_end()
    });
    let lines: Vec<&str> = lines.collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

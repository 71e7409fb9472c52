//! Clients by `tools/swarm-peer`, Debian's opentracker, and a stock web server.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use flashover::swarm::Metainfo;

use crate::netns::lab::{HEAD, Lab, Process};

/// The clients that know version 1.
pub(super) const STOCK: [&str; 4] = ["libtorrent", "aria2", "transmission", "rqbit"];
/// Where every peer listens.
const PORT: u16 = 6881;

/// The address of a node of the lab, as `lab_address` gives it.
pub(super) fn address(node: &str) -> String {
    let number: u32 = node[4..].parse().expect("nodes are numbered");
    format!("192.0.2.{}", 10 + number)
}

/// A client that is to run on a node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    client: &'static str,
    node: String,
    options: Vec<OsString>,
}

impl Peer {
    pub(super) fn new(client: &'static str, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            options: Vec::new(),
        }
    }

    /// Tells it of a peer on another node; not all clients can be told.
    pub(super) fn told_of(mut self, node: &str) -> Self {
        let peer = format!("{}:{PORT}", address(node));
        self.options.extend(["--peer".into(), peer.into()]);
        self
    }

    pub(super) fn seed(&self, lab: &Lab, torrent: &Path, folder: &Path) -> Process {
        self.start(lab, "seed", torrent, folder)
    }

    pub(super) fn fetch(&self, lab: &Lab, torrent: &Path, folder: &Path) -> Process {
        self.start(lab, "fetch", torrent, folder)
    }

    /// What it says goes to a file beside the folder, of its name and `.log`.
    fn start(&self, lab: &Lab, role: &str, torrent: &Path, folder: &Path) -> Process {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/swarm-peer");
        let mut command = lab.command(&self.node, tool);
        command.args([self.client, role]).arg(torrent);
        command.arg("--dir").arg(folder).arg("--tuned");
        command.args(["--port", &PORT.to_string()]);
        command.args(&self.options);
        command.env("FLASHOVER", env!("CARGO_BIN_EXE_flashover"));
        lab.spawn(self.client, command, &folder.with_extension("log"))
    }
}

/// A stock web server that knows ranges.
pub(super) fn web_server(lab: &Lab, node: &str, folder: &Path) -> Process {
    let mut command = lab.command(node, "busybox");
    command
        .args(["httpd", "-f", "-p", "8080", "-h"])
        .arg(folder);
    lab.spawn("httpd", command, &folder.with_extension("log"))
}

/// opentracker on the head, at port 6969 of TCP and UDP.
#[derive(Debug)]
pub(super) struct Tracker<'a> {
    lab: &'a Lab,
    _process: Process,
}

impl<'a> Tracker<'a> {
    /// Debian's knows the torrents of a list, which it reads beneath its own root.
    pub(super) fn start(lab: &'a Lab, torrents: &[&Metainfo]) -> Self {
        let folder = lab.scratch().join("tracker");
        std::fs::create_dir_all(&folder).expect("the scratch has room");
        let names = torrents.iter().flat_map(|torrent| names(torrent));
        let list: String = names.map(|name| hex(&name) + "\n").collect();
        std::fs::write(folder.join("list"), list).expect("the scratch has room");
        let mut command = lab.command("head", "opentracker");
        command.args(["-i", &HEAD.to_string(), "-p", "6969", "-P", "6969"]);
        command
            .args(["-u", "nobody", "-w", "list", "-d"])
            .arg(&folder);
        Self {
            lab,
            _process: lab.spawn("opentracker", command, &lab.scratch().join("tracker.log")),
        }
    }

    /// How many said of the torrent of these names that they have all of it.
    pub(super) fn seeds(&self, names: &[[u8; 20]]) -> usize {
        let asked = |name: &[u8; 20]| {
            let escaped: String = name.iter().map(|byte| format!("%{byte:02x}")).collect();
            let answer = self.ask(&format!("/scrape?info_hash={escaped}"))?;
            let (_, count) = answer.split_once("8:completei")?;
            count.split_once('e')?.0.parse().ok()
        };
        names.iter().filter_map(asked).max().unwrap_or(0)
    }

    fn ask(&self, path: &str) -> Option<String> {
        self.lab.within("head", || {
            let mut stream = TcpStream::connect((HEAD, 6969)).ok()?;
            let limit = Some(Duration::from_secs(2));
            stream.set_read_timeout(limit).ok()?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok()?;
            Some(String::from_utf8_lossy(&answer).into_owned())
        })
    }
}

/// As trackers know the torrent: both versions, each in 20 bytes.
fn names(torrent: &Metainfo) -> Vec<[u8; 20]> {
    let names = torrent.info().names();
    names.iter().map(|name| name.wire()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

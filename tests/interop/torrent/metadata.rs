//! The extension protocol with stock libtorrent, over loopback: it gives us the info dictionary of
//! a torrent of which we know the name alone, and we give it one.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flashover::base::Time;
use flashover::machine::StreamId;
use flashover::swarm::Metainfo;
use flashover::swarm::metadata_fetch::{Heard, MetadataFetch};
use flashover::swarm::metainfo::{Draft, DraftFile, Forms, PieceHashes};
use flashover::swarm::wire::extension::{ExtendedHandshake, Extension, ExtensionIds, HANDSHAKE_ID};
use flashover::swarm::wire::framer::{Frame, Framer};
use flashover::swarm::wire::metadata::{MetadataMessage, MetadataServer};
use flashover::swarm::wire::{Handshake, Message};

const DEADLINE: Duration = Duration::from_secs(60);
const PEER: StreamId = StreamId::outgoing(0);

/// A torrent of both versions whose info dictionary has several parts.
fn many_pieces() -> Metainfo {
    let file = DraftFile {
        len: 5000 << 14,
        ..DraftFile::default()
    };
    let draft = Draft {
        name: b"zeros".to_vec(),
        files: vec![file],
        piece_length: 1 << 14,
        forms: Forms::Hybrid,
        private: false,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        comment: None,
    };
    let plan = draft.plan().unwrap();
    let zeros = vec![0; 1 << 14];
    let hashes = plan.layout().pieces().map(|piece| {
        let of = plan.piece(piece);
        PieceHashes::of(&zeros, of.padding, of.width_log2, Forms::Hybrid)
    });
    let hashes: Vec<PieceHashes> = hashes.collect();
    plan.finish(&hashes).unwrap()
}

/// One connection, and what the other side wants to hear.
struct Peer {
    stream: TcpStream,
    framer: Framer,
    theirs: ExtendedHandshake,
}

impl Peer {
    fn new(stream: TcpStream, torrent: &Metainfo) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut peer = Self {
            stream,
            framer: Framer::default(),
            theirs: ExtendedHandshake::default(),
        };
        let hello = Handshake {
            info_hash: torrent.info().names().first().wire(),
            peer_id: *b"-FO0001-abcdefghijkl",
            fast: true,
            extended: true,
            upgrade: false,
        };
        peer.stream.write_all(&hello.emit()).unwrap();
        let ours = ExtendedHandshake {
            ids: ExtensionIds::ours(&Extension::ALL),
            metadata_size: u32::try_from(torrent.info().bytes().len()).ok(),
            version: Some("Flashover".to_owned()),
            ..ExtendedHandshake::default()
        };
        peer.say(HANDSHAKE_ID, &ours.emit());
        peer
    }

    fn say(&mut self, id: u8, payload: &[u8]) {
        let mut message = Vec::new();
        Message::Extended(id, payload).emit(&mut message);
        self.stream.write_all(&message).unwrap();
    }

    fn say_metadata(&mut self, message: &[u8]) {
        let id = self.theirs.ids.get(Extension::Metadata);
        self.say(id.expect("libtorrent knows ut_metadata"), message);
    }

    /// Gives every message of `ut_metadata` to `hear` until it is content, or the other side goes;
    /// `None` stands for the handshake.
    fn run(&mut self, mut hear: impl FnMut(&mut Self, Option<MetadataMessage<'_>>) -> bool) {
        let end = Instant::now() + DEADLINE;
        let mut buffer = vec![0; 64 << 10];
        loop {
            assert!(
                Instant::now() < end,
                "the other side does not come to an end"
            );
            let count = self.stream.read(&mut buffer).unwrap();
            if count == 0 {
                return;
            }
            let mut bytes = &buffer[..count];
            let mut framer = std::mem::take(&mut self.framer);
            while let Some(frame) = framer.next(&mut bytes).unwrap() {
                let Frame::Message(Message::Extended(id, payload)) = frame else {
                    continue;
                };
                let content = match Extension::of_our_id(id) {
                    None => {
                        assert_eq!(id, HANDSHAKE_ID, "it has our numbers");
                        self.theirs = ExtendedHandshake::parse(payload).unwrap();
                        hear(self, None)
                    }
                    Some(Extension::Metadata) => {
                        let message = MetadataMessage::parse(payload).unwrap();
                        hear(self, Some(message))
                    }
                    Some(Extension::Pex | Extension::DontHave | Extension::UploadOnly) => false,
                };
                if content {
                    return;
                }
            }
            self.framer = framer;
        }
    }
}

#[test]
fn libtorrent_gives_us_the_info_dictionary() {
    let torrent = many_pieces();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("torrent");
    std::fs::write(&path, torrent.emit()).unwrap();
    let mut libtorrent = Libtorrent::start(SEED, &[path.to_str().unwrap()]);
    let port: u16 = libtorrent.line().parse().unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    let mut peer = Peer::new(stream, &torrent);
    let mut fetch = MetadataFetch::new(torrent.info().names());
    let (mut found, mut parts) = (None, 0);
    peer.run(|peer, message| {
        match message {
            None => {
                assert!(
                    peer.theirs
                        .version
                        .as_deref()
                        .unwrap_or("")
                        .contains("libtorrent")
                );
                let size = peer.theirs.metadata_size.expect("it has it");
                fetch.add_peer(PEER, size);
            }
            Some(message) => match fetch.handle(PEER, &message, Time::ZERO) {
                Heard::Nothing => {}
                Heard::Complete(info) => found = Some(info),
                bad @ (Heard::Bad | Heard::Useless(_)) => panic!("{bad:?}"),
            },
        }
        while let Some((_, part)) = fetch.poll_request(Time::ZERO) {
            parts += 1;
            peer.say_metadata(&MetadataMessage::Request(part).emit());
        }
        found.is_some()
    });
    let found = found.expect("it gives all that is asked for");
    assert!(found.bytes() == torrent.info().bytes());
    assert!(parts > 4, "{parts} parts");
}

#[test]
fn we_give_libtorrent_the_info_dictionary() {
    let torrent = many_pieces();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let name = torrent.info().names().first();
    let port = listener.local_addr().unwrap().port();
    let magnet = format!("magnet:?xt=urn:btih:{name}&x.pe=127.0.0.1:{port}");
    let dir = tempfile::tempdir().unwrap();
    let mut libtorrent = Libtorrent::start(FETCH, &[&magnet, dir.path().to_str().unwrap()]);
    let stream = accept(&listener);
    let mut peer = Peer::new(stream, &torrent);
    let (mut server, info) = (MetadataServer::default(), torrent.info().bytes());
    let mut left = info.len().div_ceil(16 << 10);
    peer.run(|peer, message| {
        if let Some(MetadataMessage::Request(part)) = message {
            let answer = server.answer(Some(info), part);
            assert!(!answer.part.is_empty(), "part {part} is there");
            peer.say_metadata(&[answer.head, answer.part.to_vec()].concat());
            left -= 1;
        }
        left == 0
    });
    assert_eq!(libtorrent.line(), format!("{} {name}", info.len()));
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("libtorrent does not come");
}

/// A script that runs libtorrent; it ends with the test.
struct Libtorrent {
    child: Child,
}

impl Libtorrent {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let child = Command::new(super::python())
            .args(["-c", script])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there; tools/test installs it");
        Self { child }
    }

    /// The next line that it says; the scripts have deadlines of their own.
    fn line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().expect("it is piped");
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend_from_slice(&byte);
        }
        String::from_utf8(line).unwrap()
    }
}

impl Drop for Libtorrent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

const SEED: &str = r#"
import os, sys, tempfile, time
import libtorrent as lt
session = lt.session({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False,
    "enable_upnp": False, "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
})
wanted = lt.load_torrent_file(sys.argv[1])
wanted.save_path = os.path.dirname(sys.argv[1])
with open(os.path.join(wanted.save_path, wanted.ti.name()), "wb") as file:
    file.truncate(wanted.ti.total_size())
wanted.flags |= lt.torrent_flags.seed_mode
wanted.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
torrent = session.add_torrent(wanted)
end = time.time() + 60
seeding = lt.torrent_status.states.seeding
while (session.listen_port() == 0 or torrent.status().state != seeding) and time.time() < end:
    time.sleep(0.05)
print(session.listen_port(), flush=True)
while time.time() < end:
    time.sleep(0.1)
"#;

const FETCH: &str = r#"
import sys, time
import libtorrent as lt
session = lt.session({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False,
    "enable_upnp": False, "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
})
wanted = lt.parse_magnet_uri(sys.argv[1])
wanted.save_path = sys.argv[2]
torrent = session.add_torrent(wanted)
end = time.time() + 60
while not torrent.status().has_metadata and time.time() < end:
    time.sleep(0.05)
info = torrent.torrent_file()
print(len(info.info_section()), info.info_hashes().v1, flush=True)
"#;

//! What it costs to serve byte ranges of a file by HTTP: the control plane's runtime on
//! `tokio-uring` and on plain tokio, and streams of the engine on its own ring, which read into its
//! arena and send from there. The same bytes to the same client, over one connection.
//!
//! The figure is CPU time of the whole process, the client's share included, not wall time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use flashover::base::{Block, Blocks as _, Counters, Time};
use flashover::deploy::control::range::{Asked, RangeBody, parse};
use flashover::deploy::runtime::{Backend, Runtime};
use flashover::engine::{Arena, Driver, Listener, Mailbox, Setup, mailbox};
use flashover::machine::{
    DiskKind, DiskOp, FileId, Input, Machine, Output, StreamId, StreamInput, StreamOp, Transmit,
};
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::cpu_time;

const PART: usize = 1 << 20;
const PARTS: usize = 32;
const FILE: usize = PARTS * PART;
/// As much as the control plane has in memory of an answer: two chunks.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 2;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("http ranges, CPU");
    group.throughput(Throughput::Bytes(FILE as u64));
    group.sample_size(20);
    let file = tempfile::tempfile().expect("there is room");
    let content: Vec<u8> = (0..=250).cycle().take(FILE).collect();
    file.write_all_at(&content, 0).expect("there is room");
    let file = Arc::new(file);
    for (name, backend) in [("tokio-uring", Backend::Ring), ("tokio", Backend::Plain)] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback is up");
        listener.set_nonblocking(true).expect("a socket takes that");
        let address = listener.local_addr().expect("it is bound");
        let runtime = Runtime::start_on(backend, "control").expect("threads can be had");
        let file = Arc::clone(&file);
        runtime
            .spawn(move || serve(listener, file))
            .expect("it runs");
        measure(&mut group, name, address, &content);
    }
    for words in ["ring", "plain"] {
        let engine = Engine::start(words, &file);
        let name = format!("engine, {words}");
        measure(&mut group, &name, engine.address, &content);
    }
    group.finish();
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    address: SocketAddr,
    content: &[u8],
) {
    let mut client = Client::connect(address);
    let got = client.get(5..PART + 7);
    assert!(*got == content[5..PART + 7], "{name} serves other bytes");
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let before = cpu_time();
            for _ in 0..rounds {
                for part in 0..PARTS {
                    client.get(part * PART..(part + 1) * PART);
                }
            }
            cpu_time() - before
        });
    });
}

struct Client {
    stream: TcpStream,
    body: Vec<u8>,
}

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("it listens");
        let patience = Some(Duration::from_secs(10));
        stream
            .set_read_timeout(patience)
            .expect("a socket takes that");
        let body = vec![0; 2 * PART];
        Self { stream, body }
    }

    fn get(&mut self, part: Range<usize>) -> &[u8] {
        let (first, last) = (part.start, part.end - 1);
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\nrange: bytes={first}-{last}\r\n\r\n");
        self.stream
            .write_all(request.as_bytes())
            .expect("it serves");
        let mut filled = 0;
        let body_at = loop {
            filled += self
                .stream
                .read(&mut self.body[filled..])
                .expect("it answers");
            let end = self.body[..filled]
                .windows(4)
                .position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        assert!(self.body.starts_with(b"HTTP/1.1 206 "), "it serves ranges");
        let rest = filled..body_at + part.len();
        self.stream
            .read_exact(&mut self.body[rest])
            .expect("it answers");
        &self.body[body_at..body_at + part.len()]
    }
}

async fn serve(listener: TcpListener, file: Arc<File>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime polls it");
    let permits = Arc::new(Semaphore::new(1));
    while let Ok((stream, _)) = listener.accept().await {
        let (file, permits) = (Arc::clone(&file), Arc::clone(&permits));
        let answer = hyper::service::service_fn(move |request: hyper::Request<_>| {
            let _: &hyper::body::Incoming = request.body();
            let asked = request.headers().get(header::RANGE);
            let asked = parse(asked.and_then(|value| value.to_str().ok()), FILE as u64);
            let (file, permits) = (Arc::clone(&file), Arc::clone(&permits));
            async move {
                let Asked::Part(part) = asked else {
                    panic!("the client asks for parts");
                };
                let permit = permits.acquire_owned().await.expect("it is not closed");
                hyper::Response::builder()
                    .status(206)
                    .header(header::CONTENT_LENGTH, part.end - part.start)
                    .body(RangeBody::new(file, part, permit))
            }
        });
        tokio::task::spawn_local(async move {
            // The client's going is its end.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await
                .ok();
        });
    }
}

/// A driver that serves on a thread; dropping it ends it.
struct Engine {
    address: SocketAddr,
    mailbox: Mailbox<()>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    fn start(words: &str, file: &File) -> Self {
        let file = file.try_clone().expect("there are descriptors");
        let ways = words.parse().expect("these are ways");
        let (mailbox, commands) = mailbox().expect("there are descriptors");
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let arena = Arena::new(CHUNK, CHUNKS).expect("there is memory");
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let setup = Setup {
                sockets: Vec::new(),
                listeners: vec![Listener::bind(any).expect("the loopback is up")],
                files: vec![file],
                arena: Some(arena.clone()),
                ways,
                counters: Arc::new(Counters::default()),
            };
            let mut driver = Driver::new(setup).expect("the engine works here");
            let address = driver.listens_on()[0];
            ready.send(address).expect("somebody waits for it");
            let mut server = RangeServer::new(arena);
            driver
                .run(&mut server, &commands, |()| ControlFlow::Continue(()))
                .expect("the loopback works");
        });
        Self {
            address: started.recv().expect("the thread did not panic"),
            mailbox,
            thread: Some(thread),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it did not panic");
        }
    }
}

/// Serves one client at a time.
struct RangeServer {
    arena: Arena,
    request: Vec<u8>,
    client: Option<StreamId>,
    header: Option<Bytes>,
    /// Where the part ends.
    end: usize,
    /// What is still to be read.
    rest: Range<usize>,
    /// What is read and not sent, by where it is in the file.
    read: BTreeMap<usize, Block>,
    /// Where the next block to be sent is.
    next: usize,
}

/// The front of a block, on its way to the client.
struct Front(Block, usize);

impl AsRef<[u8]> for Front {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl RangeServer {
    fn new(arena: Arena) -> Self {
        Self {
            arena,
            request: Vec::new(),
            client: None,
            header: None,
            end: 0,
            rest: 0..0,
            read: BTreeMap::new(),
            next: 0,
        }
    }

    fn ask(&mut self, bytes: &[u8]) {
        self.request.extend_from_slice(bytes);
        let Some(text) = self.request.strip_suffix(b"\r\n\r\n") else {
            return;
        };
        let text = std::str::from_utf8(text).expect("the client writes text");
        let asked = text.lines().find_map(|line| line.strip_prefix("range: "));
        let Asked::Part(part) = parse(asked, FILE as u64) else {
            panic!("the client asks for parts");
        };
        let len = part.end - part.start;
        let header = format!("HTTP/1.1 206 Partial Content\r\ncontent-length: {len}\r\n\r\n");
        self.header = Some(header.into());
        let at = |at| usize::try_from(at).expect("it lies in the file");
        self.rest = at(part.start)..at(part.end);
        self.end = self.rest.end;
        self.next = self.rest.start;
        self.request.clear();
    }
}

impl Machine for RangeServer {
    type Command = ();
    type Event = ();

    fn handle(&mut self, input: Input<'_, ()>, _now: Time) {
        match input {
            Input::Stream(StreamInput::Accepted { id, .. }) => self.client = Some(id),
            Input::Stream(StreamInput::Received { bytes, .. }) => self.ask(bytes),
            Input::Disk(done) => {
                done.result.expect("the file is whole");
                let at = usize::try_from(done.tag).expect("it lies in the file");
                self.read.insert(at, done.block);
            }
            Input::Stream(_) | Input::Datagrams(_) | Input::Timeout | Input::Command(()) => {}
        }
    }

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        let id = self.client?;
        if let Some(bytes) = self.header.take() {
            return Some(Output::Stream(StreamOp::Send { id, bytes }));
        }
        if let Some(block) = self.read.remove(&self.next) {
            let len = CHUNK.min(self.end - self.next);
            self.next += len;
            let bytes = Bytes::from_owner(Front(block, len));
            return Some(Output::Stream(StreamOp::Send { id, bytes }));
        }
        if self.rest.is_empty() {
            return None;
        }
        // Blocks come back when they are sent.
        let block = self.arena.take()?;
        let len = CHUNK.min(self.rest.len());
        let offset = self.rest.start as u64;
        self.rest.start += len;
        Some(Output::Disk(DiskOp {
            tag: offset,
            kind: DiskKind::Read,
            file: FileId(0),
            offset,
            len,
            block,
        }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

//! A web server of one file, for what fetches byte ranges.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// It ends with the test's process.
#[derive(Debug)]
pub(crate) struct WebServer {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl WebServer {
    /// Serves these bytes, whatever the path.
    pub(crate) fn start(bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(AtomicUsize::new(0));
        let (bytes, count) = (Arc::new(bytes), Arc::clone(&requests));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (bytes, count) = (Arc::clone(&bytes), Arc::clone(&count));
                // A client that goes away ends its connection.
                std::thread::spawn(move || answer(stream, &bytes, &count).ok());
            }
        });
        Self { address, requests }
    }

    /// Where its file is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/data", self.address)
    }

    /// How many ranges were asked for.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A server that gives every request the same answer; where it is.
pub(crate) fn saying(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A client that goes away ends its connection.
            say(&stream, &answer).ok();
        }
    });
    address
}

fn say(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            return stream.write_all(answer);
        }
    }
    Ok(())
}

fn answer(stream: TcpStream, bytes: &[u8], count: &AtomicUsize) -> std::io::Result<()> {
    let mut sends = stream.try_clone()?;
    let mut range = None;
    for line in BufReader::new(stream).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("range: bytes=") {
            let (first, last) = text.split_once('-').expect("it asks for one range");
            let number = |text: &str| text.parse::<usize>().expect("a range has numbers");
            range = Some((number(first), number(last)));
        }
        if !line.is_empty() {
            continue;
        }
        let (first, last) = range.take().expect("it asks for ranges");
        count.fetch_add(1, Ordering::SeqCst);
        write!(
            sends,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\
             Content-Range: bytes {first}-{last}/{}\r\n\r\n",
            last + 1 - first,
            bytes.len()
        )?;
        sends.write_all(&bytes[first..=last])?;
    }
    Ok(())
}

//! One request by plain HTTP/1.1, with bounds on all that comes back. Redirects are not followed:
//! a torrent or tracker must not make this machine ask another.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::swarm::tracker::TrackerUrl;

/// How long it may take until a connection stands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The addresses of the host of a URL, a few at most.
pub(super) async fn addresses(url: &TrackerUrl) -> std::io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((url.host(), url.port())).await?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

/// Connects to the host of a URL, by its first address that answers.
async fn connect(url: &TrackerUrl) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("The name has no address");
    for address in addresses(url).await? {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let opened = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let stream = opened.map_err(|_| std::io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that takes one request after another.
pub(in crate::deploy) type Sender = http1::SendRequest<Empty<Bytes>>;

/// Speaks HTTP on a new connection; its task ends with the sender.
pub(in crate::deploy) async fn open(url: &TrackerUrl) -> anyhow::Result<Sender> {
    speak(connect(url).await?).await
}

/// As [`open`], at one address.
pub(super) async fn open_at(address: SocketAddr) -> anyhow::Result<Sender> {
    speak(connect_to(address).await?).await
}

async fn speak(stream: TcpStream) -> anyhow::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Asks for `target` at the host of `url`; `range` is the value of that header.
pub(in crate::deploy) async fn get(
    sender: &mut Sender,
    url: &TrackerUrl,
    target: &str,
    range: Option<&str>,
) -> anyhow::Result<Response<Incoming>> {
    let agent = concat!("flashover/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::get(target)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, agent);
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    sender.ready().await?;
    Ok(sender.send_request(request.body(Empty::new())?).await?)
}

/// Reads a body of at most `len_max` bytes.
pub(in crate::deploy) async fn collect(
    response: Response<Incoming>,
    len_max: usize,
) -> anyhow::Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            anyhow::ensure!(
                bytes.len() + data.len() <= len_max,
                "The answer is longer than {len_max} bytes"
            );
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

//! One request by plain HTTP/1.1, with bounds on all that comes back. Redirects are not followed:
//! a torrent or tracker must not make this machine ask another.

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

/// Connects to the host of a URL, by its first address that answers.
pub(super) async fn connect(url: &TrackerUrl) -> std::io::Result<TcpStream> {
    let addresses = tokio::net::lookup_host((url.host(), url.port())).await?;
    let mut last = std::io::Error::other("The name has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A connection that takes one request after another.
pub(super) type Sender = http1::SendRequest<Empty<Bytes>>;

/// Speaks HTTP on a new connection; its task ends with the sender.
pub(super) async fn open(url: &TrackerUrl) -> anyhow::Result<Sender> {
    let stream = connect(url).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Asks for `target` at the host of `url`; `range` is the value of that header.
pub(super) async fn get(
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
pub(super) async fn collect(
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

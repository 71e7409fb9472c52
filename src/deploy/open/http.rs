//! The HTTP side: tracker, torrents, web seeds. Each request is answered in time or not at all.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::deploy::catalog::FileKind;
use crate::deploy::control::range;
use crate::deploy::hub::Hub;
use crate::swarm::Metainfo;
use crate::swarm::tracker::TrackerUrl;
use crate::swarm::tracker::limits::QUERY_BYTES_MAX;

/// Byte ranges being sent at a time.
const RANGES_MAX: usize = 64;
/// How long the head of a request may take, idle time between requests included.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may wait until its answer starts.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// What all connections share.
pub(super) struct Shop {
    hub: Arc<Hub>,
    ranges: Arc<Semaphore>,
}

impl Shop {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            ranges: Arc::new(Semaphore::new(RANGES_MAX)),
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, peer: IpAddr, shop: Arc<Shop>) -> anyhow::Result<()> {
    let local = stream.local_addr()?;
    let service = service_fn(|request| {
        let shop = Arc::clone(&shop);
        async move {
            let answered = answer(&shop, peer, local, request);
            let answered = tokio::time::timeout(ANSWER_DEADLINE, answered).await;
            let busy = |_| refuse(StatusCode::SERVICE_UNAVAILABLE, "The head is too busy");
            Ok::<_, Infallible>(answered.unwrap_or_else(busy))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(2 * QUERY_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn answer(
    shop: &Shop,
    peer: IpAddr,
    local: SocketAddr,
    request: Request<Incoming>,
) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered");
    }
    let query = request.uri().query().unwrap_or_default();
    let peers = shop.hub.peers();
    match request.uri().path() {
        "/announce" => plain("text/plain", peers.announce_http(peer, query)),
        "/scrape" => plain("text/plain", peers.scrape_http(query)),
        path => match shop
            .hub
            .find_file(path.strip_prefix('/').unwrap_or_default())
        {
            Some((published, FileKind::Torrent)) => {
                torrent(published.torrent.as_deref(), &request, local)
            }
            Some((published, FileKind::TorrentV1)) => {
                torrent(published.torrent_v1.as_deref(), &request, local)
            }
            Some((published, FileKind::Bundle)) => {
                let open = range::Open {
                    file: &published.bundle,
                    size: published.manifest.geometry.bundle_size(),
                };
                let (response, bytes) = range::answer(open, request.headers(), &shop.ranges).await;
                shop.hub.served_range(bytes);
                response
            }
            None => refuse(StatusCode::NOT_FOUND, "No such file is published here"),
        },
    }
}

/// The torrent of a bundle, with this head as tracker and web seed, by the name that the client
/// reached it by.
fn torrent(torrent: Option<&Metainfo>, request: &Request<Incoming>, local: SocketAddr) -> Response {
    let Some(torrent) = torrent else {
        return refuse(StatusCode::NOT_FOUND, "This publication has no torrent");
    };
    let here = authority(request).unwrap_or_else(|| local.to_string());
    let name = String::from_utf8_lossy(torrent.info().name());
    let trackers = ["http", "udp"].map(|scheme| format!("{scheme}://{here}/announce"));
    let seed = format!("http://{here}/{name}");
    let full = torrent.with_sources(&[trackers.to_vec()], &[seed]);
    plain("application/x-bittorrent", full.emit())
}

/// What the client calls this head, if it is a host and port as they may stand in a URL.
fn authority(request: &Request<Incoming>) -> Option<String> {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    let is_bare = !host.contains(['/', '?', '#']);
    let url: TrackerUrl = format!("http://{host}/").parse().ok()?;
    is_bare.then(|| url.authority())
}

fn plain(kind: &'static str, body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

fn refuse(status: StatusCode, why: &'static str) -> Response {
    (status, why).into_response()
}

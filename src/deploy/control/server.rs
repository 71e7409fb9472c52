//! The head's end of the control channel: one control thread.
//!
//! Nothing that a peer does can hold more than its share: connections are bounded in all and per
//! address, handshakes and headers have deadlines, bodies a size, and a peer that stops reading is
//! cut off by the kernel (`TCP_USER_TIMEOUT`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Json, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::range::{self, Asked, RangeBody};
use super::{JoinRequest, ProbeReply, ProbeRequest, REQUEST_BYTES_MAX, Report, tls};
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::hub::{Hub, Published};
use crate::deploy::path::MTU_EVERYWHERE;
use crate::deploy::runtime::{BLOCKING_MAX, Runtime};
use crate::deploy::token::Secret;

/// Connections at a time, in all.
const CONNECTIONS_MAX: usize = 1024;
/// Connections at a time from one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;
/// Byte ranges being sent at a time.
const RANGES_MAX: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the head of a request may take, idle time between requests included.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may wait until its answer starts.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How long sent bytes may stay unacknowledged.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// The longest TCP segment: one of large frames may never arrive where a switch on the way does not
/// take them, and nobody would hear of it.
const SEGMENT_BYTES_MAX: u32 = MTU_EVERYWHERE - 40;
/// How long the loop rests after `accept` failed, as when no descriptor is left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The running server; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    local: SocketAddr,
    /// Held for its end, which is that of all connections.
    _runtime: Runtime,
}

impl Server {
    /// Listens on `listen` and serves `hub` with the identity of `seed`.
    ///
    /// # Errors
    /// If the address cannot be had, or the thread not be started.
    pub(crate) fn start(listen: SocketAddr, seed: &[u8; 32], hub: Arc<Hub>) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .and_then(|listener| {
                socket2::SockRef::from(&listener).set_tcp_mss(SEGMENT_BYTES_MAX)?;
                listener.set_nonblocking(true).map(|()| listener)
            })
            .or_kind_with(Kind::Network, || format!("Cannot listen on {listen}"))?;
        let local = listener.local_addr().or_kind(Kind::Network)?;
        let tls = tls::server_config(seed).or_kind(Kind::Internal)?;
        let (tls, router) = (TlsAcceptor::from(tls), router(hub));
        let runtime = Runtime::start("control")?;
        runtime.spawn(move || accept_loop(listener, tls, router))?;
        Ok(Self {
            local,
            _runtime: runtime,
        })
    }

    /// Where it listens.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }
}

async fn accept_loop(listener: TcpListener, tls: TlsAcceptor, router: Router) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        tracing::error!("The control socket cannot be polled");
        return;
    };
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let guests = Arc::new(Guests::default());
    loop {
        let Ok(permit) = Arc::clone(&all).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(guest) = Guests::enter(&guests, peer.ip()) else {
            tracing::warn!(%peer, "Too many connections from one address");
            continue;
        };
        let (tls, router) = (tls.clone(), router.clone().layer(Extension(peer.ip())));
        tokio::task::spawn_local(async move {
            if let Err(error) = serve(stream, tls, router).await {
                tracing::debug!(%peer, %error, "A control connection ended early");
            }
            drop((permit, guest));
        });
    }
}

async fn serve(
    stream: tokio::net::TcpStream,
    tls: TlsAcceptor,
    router: Router,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_DEADLINE))?;
    let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await??;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await?;
    Ok(())
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Guests(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection of an address; counts until it is dropped.
struct Guest {
    guests: Arc<Guests>,
    address: IpAddr,
}

impl Guests {
    fn enter(guests: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let mut table = guests.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let count = table.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Guest {
            guests: Arc::clone(guests),
            address,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut table = self
            .guests
            .0
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if let Some(count) = table.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.address);
            }
        }
    }
}

#[derive(Clone)]
struct Shop {
    hub: Arc<Hub>,
    ranges: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

fn router(hub: Arc<Hub>) -> Router {
    let shop = Shop {
        hub,
        ranges: Arc::new(Semaphore::new(RANGES_MAX)),
        joins: Arc::new(Semaphore::new(BLOCKING_MAX)),
    };
    Router::new()
        .route("/v1/images", get(images))
        .route("/v1/images/{name}/{serial}/manifest", get(manifest))
        .route("/v1/images/{name}/{serial}/join", post(join))
        .route("/v1/images/{name}/{serial}/bundle", get(bundle))
        .route("/v1/probe", post(probe))
        .route("/v1/report", post(report))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn(answer_in_time))
        .layer(middleware::from_fn_with_state(shop.clone(), admit))
        .with_state(shop)
}

/// A refusal: status and one sentence.
type Refused = (StatusCode, &'static str);

async fn answer_in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "The head is too busy").into_response(),
    }
}

async fn admit(State(shop): State<Shop>, request: Request, next: Next) -> Response {
    let secret = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .and_then(Secret::parse);
    if secret.is_some_and(|secret| shop.hub.admits(&secret)) {
        next.run(request).await
    } else {
        (
            StatusCode::UNAUTHORIZED,
            "The token is unknown, expired or revoked",
        )
            .into_response()
    }
}

async fn images(State(shop): State<Shop>) -> Response {
    Json(shop.hub.images()).into_response()
}

fn find(shop: &Shop, name: &str, serial: &str) -> Result<Arc<Published>, Refused> {
    let serial = match serial {
        "latest" => None,
        number => Some(
            number
                .parse()
                .map_err(|_| (StatusCode::NOT_FOUND, "A serial is a number or `latest`"))?,
        ),
    };
    shop.hub
        .find(name, serial)
        .ok_or((StatusCode::NOT_FOUND, "No such image is published here"))
}

async fn manifest(
    State(shop): State<Shop>,
    Path((name, serial)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let published = find(&shop, &name, &serial)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, published.sealed.clone()).into_response())
}

async fn join(
    State(shop): State<Shop>,
    Path((name, serial)): Path<(String, String)>,
    Extension(from): Extension<IpAddr>,
    Json(request): Json<JoinRequest>,
) -> Result<Response, Response> {
    let published = find(&shop, &name, &serial).map_err(IntoResponse::into_response)?;
    claim(&shop, &request.node, &request.host, from).map_err(IntoResponse::into_response)?;
    let permit = Arc::clone(&shop.joins).acquire_owned().await;
    let hub = Arc::clone(&shop.hub);
    let join = move || {
        // Given back when the thread is free again, even if nobody waits for the answer any more.
        let _permit = permit;
        hub.join(&published, &request)
    };
    let joined = tokio::task::spawn_blocking(join).await;
    match joined {
        Ok(Ok(reply)) => Ok(Json(reply).into_response()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&Error::new(Kind::Internal, error))),
    }
}

/// Refuses a node whose id another machine has.
fn claim(shop: &Shop, id: &str, host: &str, from: IpAddr) -> Result<(), (StatusCode, String)> {
    let claimed = shop.hub.claim(id, host, from);
    claimed.map_err(|taken| {
        let text = format!("the machine at {} has it and is alive", taken.owner);
        (StatusCode::CONFLICT, text)
    })
}

fn failed(error: &Error) -> Response {
    tracing::warn!(%error, "A request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

async fn bundle(
    State(shop): State<Shop>,
    Path((name, serial)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let published = find(&shop, &name, &serial)?;
    let size = published.manifest.geometry.bundle_size();
    let asked = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let (status, part) = match range::parse(asked, size) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Unsatisfiable => {
            let size = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, size).into_response());
        }
    };
    let permit = Arc::clone(&shop.ranges).acquire_owned().await;
    let permit = permit.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "The head is ending"))?;
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::CONTENT_LENGTH, (part.end - part.start).to_string()),
        ],
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    shop.hub.served_range(part.end - part.start);
    let body = RangeBody::new(Arc::clone(&published.bundle), part, permit);
    *response.body_mut() = axum::body::Body::new(body);
    Ok(response)
}

async fn probe(
    State(shop): State<Shop>,
    Extension(node): Extension<IpAddr>,
    Json(request): Json<ProbeRequest>,
) -> Result<Response, Refused> {
    let sent = shop.hub.probe(node, &request);
    let mtu = sent.map_err(|error| {
        tracing::debug!(%node, %error, "Large datagrams could not be sent");
        (
            StatusCode::BAD_REQUEST,
            "No large datagrams can be sent there",
        )
    })?;
    Ok(Json(ProbeReply { mtu }).into_response())
}

async fn report(
    State(shop): State<Shop>,
    Extension(from): Extension<IpAddr>,
    Json(report): Json<Report>,
) -> Result<StatusCode, (StatusCode, String)> {
    claim(&shop, &report.node, &report.host, from)?;
    shop.hub.take_report(report);
    Ok(StatusCode::NO_CONTENT)
}

async fn status(State(shop): State<Shop>) -> Response {
    Json(shop.hub.status()).into_response()
}

async fn metrics(State(shop): State<Shop>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, shop.hub.metrics()).into_response()
}

//! The head's end of the control channel: one control thread.
//!
//! Nothing that a peer does can hold more than its share: connections are bounded in all and per
//! address, handshakes and headers have deadlines, bodies a size, and a peer that stops reading is
//! cut off by the kernel (`TCP_USER_TIMEOUT`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
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

use super::range;
use super::{JoinRequest, PeersRequest, ProbeReply, ProbeRequest, REQUEST_BYTES_MAX, Report, tls};
use crate::deploy::accept;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::hub::{Hub, Published};
use crate::deploy::runtime::{BLOCKING_MAX, Runtime};
use crate::deploy::token::Secret;
use crate::swarm::tracker::Refused;

/// Byte ranges being sent at a time.
const RANGES_MAX: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the head of a request may take, idle time between requests included.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may wait until its answer starts.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

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
        let listener = accept::listen(listen)?;
        let local = listener.local_addr().or_kind(Kind::Network)?;
        let tls = tls::server_config(seed).or_kind(Kind::Internal)?;
        let (tls, router) = (TlsAcceptor::from(tls), router(hub));
        let runtime = Runtime::start("control")?;
        runtime.spawn(move || {
            accept::accept_loop(listener, move |stream, peer| {
                serve(
                    stream,
                    tls.clone(),
                    router.clone().layer(Extension(peer.ip())),
                )
            })
        })?;
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

async fn serve(
    stream: tokio::net::TcpStream,
    tls: TlsAcceptor,
    router: Router,
) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await??;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await?;
    Ok(())
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
        .route("/v1/images/{name}/{serial}/peers", post(peers))
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
type Refusal = (StatusCode, &'static str);

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

fn find(shop: &Shop, name: &str, serial: &str) -> Result<Arc<Published>, Refusal> {
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
) -> Result<Response, Refusal> {
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

async fn peers(
    State(shop): State<Shop>,
    Path((name, serial)): Path<(String, String)>,
    Extension(node): Extension<IpAddr>,
    Json(request): Json<PeersRequest>,
) -> Result<Response, Response> {
    let published = find(&shop, &name, &serial).map_err(IntoResponse::into_response)?;
    if !shop.hub.offers_swarm() {
        return Err((StatusCode::NOT_FOUND, "This head has no swarm").into_response());
    }
    let (hub, bundle) = (Arc::clone(&shop.hub), Arc::clone(&published));
    let seeded = tokio::task::spawn_blocking(move || hub.seed(&bundle)).await;
    if let Ok(Err(error)) = seeded {
        // Nodes have each other, and the other transports.
        tracing::warn!(%error, "A bundle is not seeded");
    }
    match shop.hub.swarm(&published, node, &request) {
        Ok(reply) => Ok(Json(reply).into_response()),
        Err(refused) => {
            let status = match refused {
                Refused::NoPort => StatusCode::BAD_REQUEST,
                Refused::UnknownTorrent | Refused::Full => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err((status, refused.to_string()).into_response())
        }
    }
}

fn failed(error: &Error) -> Response {
    tracing::warn!(%error, "A request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

async fn bundle(
    State(shop): State<Shop>,
    Path((name, serial)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let published = find(&shop, &name, &serial)?;
    if !shop.hub.offers_ranges() {
        return Err((StatusCode::NOT_FOUND, "This head gives no byte ranges"));
    }
    let file = range::Open {
        file: &published.bundle,
        size: published.manifest.geometry.bundle_size(),
    };
    let (response, bytes) = range::answer(file, &headers, &shop.ranges).await;
    shop.hub.served_range(bytes);
    Ok(response)
}

async fn probe(
    State(shop): State<Shop>,
    Extension(node): Extension<IpAddr>,
    Json(request): Json<ProbeRequest>,
) -> Result<Response, Refusal> {
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

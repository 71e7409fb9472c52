//! The node's end of the control channel: one connection, kept alive on a control thread of its
//! own, every step with a deadline.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

#[cfg(test)]
use super::ImageInfo;
use super::{
    JoinReply, JoinRequest, PeersReply, PeersRequest, ProbeReply, ProbeRequest, REPLY_BYTES_MAX,
    Report, tls,
};
use crate::base::Serial;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::runtime::Runtime;
use crate::deploy::token::Token;

/// How long it may take until a connection stands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a short request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(25);
/// How long one piece may take: 16 MiB at 2 Mbit/s.
const RANGE_DEADLINE: Duration = Duration::from_secs(64);
/// The largest sealed manifest that a node takes.
const MANIFEST_BYTES_MAX: usize = 1 << 30;
/// The largest text of a refusal that is shown.
const REFUSAL_BYTES_MAX: usize = 256;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The head did not answer, or stopped in the middle; trying again can help.
    #[error("The head at {head} does not answer")]
    Unreachable {
        /// Where it should be.
        head: SocketAddr,
        /// What happened.
        #[source]
        source: anyhow::Error,
    },
    /// Another machine answers, or this head has a new key.
    #[error("The machine at {0} has not the key that the token names")]
    NotTheHead(SocketAddr),
    /// The head knows the token no more.
    #[error("The head refused the token: it is unknown, expired or revoked")]
    BadToken,
    /// The head does not have what was asked for.
    #[error("The head does not have it: {0}")]
    NotFound(String),
    /// Another machine has this node's id; when it is gone, trying again can help.
    #[error("The head refused this node's id: {0}")]
    IdTaken(String),
    /// The head answers, but cannot do it now; trying again can help.
    #[error("The head failed: {0}")]
    Busy(String),
}

impl Refusal {
    /// Whether trying again can help.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::IdTaken(_) | Self::Busy(_)
        )
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (kind, hint) = match &refusal {
            Refusal::Unreachable { .. } => (
                Kind::Network,
                "is `flashover serve` running there, and its control port open?",
            ),
            Refusal::NotTheHead(_) => (
                Kind::Trust,
                "make a token on that head: flashover token create",
            ),
            Refusal::BadToken => (
                Kind::Trust,
                "make a new one on the head: flashover token create",
            ),
            Refusal::NotFound(_) => (
                Kind::Precondition,
                "on the head: flashover image list, flashover image publish NAME",
            ),
            Refusal::IdTaken(_) => (
                Kind::Precondition,
                "start it again: every start draws a new id",
            ),
            Refusal::Busy(_) => (Kind::Network, "look at the head's messages"),
        };
        Self::new(kind, refusal).hint(hint)
    }
}

/// A client of one head.
pub(crate) struct Client {
    runtime: Runtime,
    tls: TlsConnector,
    pin: Arc<tls::Pin>,
    bearer: String,
    head: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Makes a client of the head at `head`; nothing is sent yet.
    ///
    /// # Errors
    /// If the runtime cannot be made.
    pub(crate) fn new(head: SocketAddr, token: &Token) -> Result<Self> {
        let pin = tls::Pin::new(token.head);
        let config = tls::client_config(Arc::clone(&pin)).or_kind(Kind::Internal)?;
        Ok(Self {
            runtime: Runtime::start("control")?,
            tls: TlsConnector::from(config),
            pin,
            bearer: format!("Bearer {}", token.secret),
            head,
            connection: None,
        })
    }

    /// Where the head is.
    pub(crate) const fn head(&self) -> SocketAddr {
        self.head
    }

    /// The head's public key, once a connection stood.
    pub(crate) fn head_key(&self) -> Option<[u8; 32]> {
        self.pin.public_key()
    }

    /// The table of published bundles.
    ///
    /// # Errors
    /// [`Refusal`].
    #[cfg(test)]
    pub(crate) fn images(&mut self) -> Result<Vec<ImageInfo>, Refusal> {
        let reply = self.get("/v1/images", REPLY_BYTES_MAX)?;
        self.read(&reply)
    }

    /// The sealed manifest of an image's publication, or of its newest.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn manifest(
        &mut self,
        name: &str,
        serial: Option<Serial>,
    ) -> Result<Vec<u8>, Refusal> {
        let serial = serial.map_or("latest".to_owned(), |serial| serial.to_string());
        let path = format!("/v1/images/{name}/{serial}/manifest");
        self.get(&path, MANIFEST_BYTES_MAX)
    }

    /// Joins the multicast of a publication.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn join(
        &mut self,
        name: &str,
        serial: Serial,
        request: &JoinRequest,
    ) -> Result<JoinReply, Refusal> {
        let path = format!("/v1/images/{name}/{serial}/join");
        let reply = self.post(&path, request)?;
        self.read(&reply)
    }

    /// Tells the head how this node does in the swarm of a publication; gives its neighbours.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn peers(
        &mut self,
        name: &str,
        serial: Serial,
        request: &PeersRequest,
    ) -> Result<PeersReply, Refusal> {
        let path = format!("/v1/images/{name}/{serial}/peers");
        let reply = self.post(&path, request)?;
        self.read(&reply)
    }

    /// Asks for large datagrams to a UDP port of this node; gives their MTU, 0 if none was sent.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn probe(&mut self, port: u16, nonce: String) -> Result<u32, Refusal> {
        let reply = self.post("/v1/probe", &ProbeRequest { port, nonce })?;
        let reply: ProbeReply = self.read(&reply)?;
        Ok(reply.mtu)
    }

    /// Tells the head how this node is doing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn report(&mut self, report: &Report) -> Result<(), Refusal> {
        self.post("/v1/report", report).map(drop)
    }

    /// Reads bytes of a bundle; `range` is not empty and lies in it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn range(
        &mut self,
        name: &str,
        serial: Serial,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Refusal> {
        let path = format!("/v1/images/{name}/{serial}/bundle");
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let request = self
            .request(Method::GET, &path)
            .header(
                header::RANGE,
                format!("bytes={}-{}", range.start, range.end - 1),
            )
            .body(Full::default());
        let bytes = self.send(request, StatusCode::PARTIAL_CONTENT, len, RANGE_DEADLINE)?;
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(self.broken(anyhow::anyhow!("The answer has the wrong length")))
        }
    }

    fn get(&mut self, path: &str, len_max: usize) -> Result<Vec<u8>, Refusal> {
        let request = self.request(Method::GET, path).body(Full::default());
        self.send(request, StatusCode::OK, len_max, REQUEST_DEADLINE)
    }

    fn post(&mut self, path: &str, body: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error.into()))?;
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        self.send(request, StatusCode::OK, REPLY_BYTES_MAX, REQUEST_DEADLINE)
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "head")
            .header(header::AUTHORIZATION, &self.bearer)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, reply: &[u8]) -> Result<T, Refusal> {
        serde_json::from_slice(reply).map_err(|error| self.broken(error.into()))
    }

    fn broken(&self, source: anyhow::Error) -> Refusal {
        Refusal::Unreachable {
            head: self.head,
            source,
        }
    }

    /// Sends one request; a kept connection that turns out dead is replaced once.
    fn send(
        &mut self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
        expected: StatusCode,
        len_max: usize,
        deadline: Duration,
    ) -> Result<Vec<u8>, Refusal> {
        let request = request.map_err(|error| self.broken(error.into()))?;
        if let Some(connection) = self.connection.take() {
            let exchange = exchange(connection, request.clone(), len_max);
            if let Ok(Ok(answer)) = self.block_on(deadline, exchange) {
                return self.keep(answer, expected);
            }
        }
        let connection = self.connect()?;
        match self.block_on(deadline, exchange(connection, request, len_max)) {
            Ok(Ok(answer)) => self.keep(answer, expected),
            Ok(Err(error)) | Err(error) => Err(self.broken(error)),
        }
    }

    fn keep(&mut self, answer: Answer, expected: StatusCode) -> Result<Vec<u8>, Refusal> {
        let Answer {
            status,
            body,
            connection,
        } = answer;
        self.connection = connection;
        if status == expected || (expected == StatusCode::OK && status.is_success()) {
            return Ok(body);
        }
        let shown = &body[..body.len().min(REFUSAL_BYTES_MAX)];
        let text = super::clean(&String::from_utf8_lossy(shown), REFUSAL_BYTES_MAX);
        Err(match status {
            StatusCode::UNAUTHORIZED => Refusal::BadToken,
            StatusCode::NOT_FOUND => Refusal::NotFound(text),
            StatusCode::CONFLICT => Refusal::IdTaken(text),
            _ => Refusal::Busy(format!("{status} {text}")),
        })
    }

    fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Refusal> {
        let (head, tls) = (self.head, self.tls.clone());
        let connect = async move {
            let stream = tokio::net::TcpStream::connect(head).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(head.ip());
            let stream = tls.connect(name, stream).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(sender)
        };
        match self.block_on(CONNECT_DEADLINE, connect) {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) | Err(error) if is_pin_failure(&error) => {
                Err(Refusal::NotTheHead(self.head))
            }
            Ok(Err(error)) | Err(error) => Err(self.broken(error)),
        }
    }

    fn block_on<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<anyhow::Result<T>>
    where
        T: Send + 'static,
    {
        let done = self
            .runtime
            .run(move || tokio::time::timeout(deadline, work));
        done.map_err(|error| error.into_parts().1)?
            .map_err(|_| anyhow::anyhow!("No answer within {} s", deadline.as_secs()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.head)
    }
}

struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

async fn exchange(
    mut connection: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    len_max: usize,
) -> anyhow::Result<Answer> {
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    let body = collect(response, len_max).await?;
    let connection = connection.ready().await.is_ok().then_some(connection);
    Ok(Answer {
        status,
        body,
        connection,
    })
}

async fn collect(response: Response<Incoming>, len_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let allowed = len_max.max(REFUSAL_BYTES_MAX);
            anyhow::ensure!(
                bytes.len() + data.len() <= allowed,
                "The answer is longer than {allowed} bytes"
            );
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn is_pin_failure(error: &anyhow::Error) -> bool {
    let tls = error
        .downcast_ref::<std::io::Error>()
        .and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

//! The head: announces, answers on the control channel, casts what is wanted. `serve` runs it for a
//! store of images, `cast` for one plain file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::announce::Announcing;
use super::casts::{CastConfig, Casts};
use super::catalog::Catalog;
use super::control::{PORT_DEFAULT, Server};
use super::descriptors;
use super::error::{Error, Kind, Result};
use super::hub::{Gate, Hub, Published, Transports};
use super::identity::Identity;
use super::interrupt::{Interrupt, Stop};
use super::net::NetOptions;
use super::open::OpenSwarm;
use super::plain;
use super::querier::Querier;
use super::seeds::{SeedConfig, Seeds};
use super::token::{Record, Secret, Token, Tokens};
use crate::base::counter::Counters;
use crate::base::event::Events;
use crate::base::id::ImageName;
use crate::capture::Store;
use crate::engine::net::interface::Family;
use crate::image::sign;

/// How often the head looks whether it is done, and at its table.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a head with a wanted number of receivers goes on when all are done, so that the last
/// one hears that its report arrived.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Where the head listens, unless told otherwise: everywhere.
pub const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT_DEFAULT);

/// What `serve` needs.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The store with images, key and tokens.
    pub store: PathBuf,
    /// Where the control channel listens.
    pub listen: SocketAddr,
    /// The port of the open swarm, readable by everybody; `None` has none.
    pub open_swarm: Option<u16>,
    /// How the network is used.
    pub net: NetOptions,
    /// Where events go.
    pub events: Events,
}

/// What `cast` needs.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Where standard input is kept meanwhile.
    pub work: PathBuf,
    /// What receivers call it.
    pub name: ImageName,
    /// A rooted token that receivers have already.
    pub token: Option<Token>,
    /// Begin when this many receivers are there, or a little after the first; end when as many are
    /// complete.
    pub receivers: Option<usize>,
    /// Where the control channel listens.
    pub listen: SocketAddr,
    /// How the network is used.
    pub net: NetOptions,
    /// Where events go.
    pub events: Events,
}

/// What a head tells when it is ready.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// The version of this document.
    pub v: u32,
    /// Where its control channel is, as nodes reach it.
    pub head: SocketAddr,
    /// The token to hand to nodes, if it was made just now.
    #[serde(serialize_with = "as_text")]
    pub token: Option<Token>,
    /// Where its open swarm is, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_swarm: Option<SocketAddr>,
    /// Names and serials of what it has.
    pub images: Vec<super::control::ImageInfo>,
}

fn as_text<S: Serializer>(token: &Option<Token>, serializer: S) -> Result<S::Ok, S::Error> {
    token.map(|token| token.to_string()).serialize(serializer)
}

/// How a head ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As many receivers as were wanted are complete.
    Complete(Complete),
    /// By a signal.
    Stopped(Stop),
}

/// What a head did until as many receivers as were wanted were complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Complete {
    /// Receivers that are complete.
    pub nodes: usize,
    /// Every counter of the job, by its metric's name.
    pub counters: BTreeMap<&'static str, u64>,
}

/// A head that runs. The server ends before the casts, and they before the announcements.
struct Head {
    server: Server,
    hub: Arc<Hub>,
    announcing: Option<Announcing>,
    _querier: Option<Querier>,
    identity: Identity,
    address: SocketAddr,
}

impl Head {
    fn start(
        catalog: Catalog,
        gate: Gate,
        identity: Identity,
        listen: SocketAddr,
        net: &NetOptions,
        awaited: usize,
        events: &Events,
    ) -> Result<Self> {
        descriptors::raise_limit();
        let interface = net.interface()?;
        let counters = Arc::new(Counters::default());
        let config = CastConfig {
            interface: interface.clone(),
            net: net.clone(),
            head: *identity.public().as_bytes(),
            report_port: listen.port(),
            awaited,
        };
        let seeding = SeedConfig {
            listen: listen.ip(),
            net: net.clone(),
        };
        let offer = net.offer;
        let transports = Transports {
            casts: Casts::new(
                offer.multicast.then_some(config),
                Arc::clone(&counters),
                events.clone(),
            ),
            seeds: Seeds::new(offer.swarm.then_some(seeding), events.clone()),
            swarm: offer.swarm,
            ranges: offer.http,
        };
        let hub = Hub::new(
            identity.seed(),
            catalog,
            gate,
            transports,
            counters,
            events.clone(),
        )?;
        let hub = Arc::new(hub);
        let server = Server::start(listen, identity.seed(), Arc::clone(&hub))?;
        let port = server.local().port();
        let announcing = Announcing::start(&interface, net, port)
            .inspect_err(|error| events.warn(format!("{error}: nodes must be told --head")))
            .ok();
        let querier = || Querier::start(&interface, events.clone());
        let querier = net.igmp_querier.then(querier).transpose()?;
        let ip = match listen.ip() {
            ip if ip.is_unspecified() => interface.address(Family::V4).unwrap_or(ip),
            ip => ip,
        };
        let head = Self {
            server,
            hub,
            announcing,
            _querier: querier,
            identity,
            address: SocketAddr::new(ip, port),
        };
        head.announce();
        Ok(head)
    }

    fn announce(&self) {
        if let Some(announcing) = &self.announcing {
            announcing.tell(&self.identity, &self.hub.images());
        }
    }

    fn ready(&self, token: Option<Token>) -> Ready {
        Ready {
            v: 1,
            head: self.address,
            token,
            open_swarm: None,
            images: self.hub.images(),
        }
    }
}

/// Serves the published images of a store until a signal comes.
///
/// `ready` is called once, when nodes can come.
///
/// # Errors
/// If the store has no key, or address, interface or socket cannot be had.
pub fn serve(config: &Serve, interrupt: &Interrupt, ready: impl FnOnce(&Ready)) -> Result<Ended> {
    let store = Store::open(&config.store);
    let identity = Identity::of_store(&store)?;
    let tokens = Tokens::at(&config.store);
    let token = if tokens.list()?.iter().any(|record| !record.has_ended()) {
        None
    } else {
        Some(tokens.create(identity.fingerprint(), None)?.0)
    };
    let catalog = Catalog::of_store(store, &config.events)?;
    let head = Head::start(
        catalog,
        Gate::Tokens(tokens),
        identity,
        config.listen,
        &config.net,
        0,
        &config.events,
    )?;
    let open_swarm = config
        .open_swarm
        .map(|port| open_swarm(&head, config, port));
    let open_swarm = open_swarm.transpose()?;
    let at = |open: &OpenSwarm| SocketAddr::new(head.address.ip(), open.local().port());
    ready(&Ready {
        open_swarm: open_swarm.as_ref().map(at),
        ..head.ready(token)
    });
    let mut scanned = Instant::now();
    loop {
        if let Some(stop) = interrupt.wait(PERIOD) {
            return Ok(Ended::Stopped(stop));
        }
        if scanned.elapsed() >= super::catalog::RESCAN_PERIOD {
            scanned = Instant::now();
            if head.hub.rescan() {
                head.announce();
            }
        }
        head.hub.tidy_up();
    }
}

/// Opens the bundles to stock clients, and says so.
fn open_swarm(head: &Head, config: &Serve, port: u16) -> Result<OpenSwarm> {
    let listen = SocketAddr::new(config.listen.ip(), port);
    let open = OpenSwarm::start(listen, Arc::clone(&head.hub))?;
    head.hub.serve_stock();
    let port = open.local().port();
    config.events.warn(format!(
        "--open-swarm: EVERYBODY who reaches port {port} can read ALL PUBLISHED IMAGES, \
         and they cross the network in the clear"
    ));
    Ok(open)
}

/// Makes a token for nodes of the head with a store's key.
///
/// # Errors
/// If the store has no key or cannot be written.
pub fn create_token(store: &Path, ttl: Option<Duration>) -> Result<(Token, Record)> {
    let identity = Identity::of_store(&Store::open(store))?;
    Tokens::at(store).create(identity.fingerprint(), ttl)
}

/// Casts one file until a signal comes or enough receivers are complete.
///
/// `ready` is called once, when receivers can come.
///
/// # Errors
/// If the file cannot be read, the token is not rooted, or address, interface or socket cannot be
/// had.
pub fn cast(config: &Cast, interrupt: &Interrupt, ready: impl FnOnce(&Ready)) -> Result<Ended> {
    let (identity, secret) = cast_identity(config.token.as_ref())?;
    let file = plain::open(&config.file, &config.work)?;
    config
        .events
        .note(format!("hashing {}", config.file.display()));
    let manifest = plain::describe(&file, config.name.clone(), &config.events)?;
    let sealed = sign::seal(&manifest, &identity.signing_key());
    let catalog = Catalog::default();
    catalog.insert(Arc::new(Published {
        manifest: Arc::new(manifest),
        sealed: sealed.into(),
        bundle: Arc::new(file),
        torrent: None,
        torrent_v1: None,
        is_hashed: true,
    }));
    let token = Token {
        head: identity.fingerprint(),
        secret,
    };
    let head = Head::start(
        catalog,
        Gate::Only(secret),
        identity,
        config.listen,
        &config.net,
        config.receivers.unwrap_or(0),
        &config.events,
    )?;
    ready(&head.ready(config.token.is_none().then_some(token)));
    loop {
        if let Some(stop) = interrupt.wait(PERIOD) {
            return Ok(Ended::Stopped(stop));
        }
        head.hub.tidy_up();
        let done = head.hub.nodes_done();
        if config.receivers.is_some_and(|wanted| done >= wanted) {
            // Nobody minds a signal here: the head ends anyway.
            let _stop = interrupt.wait(LAST_WORDS);
            let counters = head.hub.counters().iter().collect();
            return Ok(Ended::Complete(Complete {
                nodes: done,
                counters,
            }));
        }
    }
}

fn cast_identity(token: Option<&Token>) -> Result<(Identity, Secret)> {
    let Some(token) = token else {
        return Ok((Identity::ephemeral()?, Secret::random()?));
    };
    let seed = token.head_seed()?.ok_or_else(|| {
        Error::text(Kind::Usage, "This token belongs to another head")
            .hint("make one for cast and catch: flashover token create --offline")
    })?;
    Ok((Identity::from_seed(seed)?, token.secret))
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({}, {:?})", self.address, self.server)
    }
}

//! From a magnet link to a torrent: the info dictionary and piece layers come from peers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use super::sources::Sources;
use super::{Options, new_peer_id};
use crate::base::counter::Counters;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::engine::{Commands, Driver, Mailbox, Setup, mailbox};
use crate::swarm::scout::{Command, Event, Scout};
use crate::swarm::torrent::Stats;
use crate::swarm::tracker::announcer::Identity;
use crate::swarm::{Magnet, Metainfo};

/// How often the wish to stop is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Fetches what the link names; gives it with the peers that were heard of on this network.
///
/// # Errors
/// If nobody has it in time.
pub(super) fn find(
    magnet: &Magnet,
    options: &Options,
    until: Option<Instant>,
) -> Result<(Metainfo, Vec<SocketAddr>)> {
    let peer_id = new_peer_id()?;
    let seed = u64::from_be_bytes(crate::deploy::random()?);
    let scout = Scout::new(magnet.names, peer_id, seed);
    let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
    drop(mailbox.send(Command::Peers(peers(magnet, options))));
    let tell = mailbox.clone();
    let key = u32::from_be_bytes(crate::deploy::random()?);
    let identities = magnet.names.iter().map(|name| Identity {
        info_hash: name.wire(),
        peer_id,
        // Nobody can connect yet; the tracker hears of the real port with the first announcement
        // of the torrent itself.
        port: options.listen.port(),
        key,
    });
    let trackers = options.more_trackers.iter().map(|url| vec![url.clone()]);
    let trackers: Vec<Vec<String>> = trackers.collect();
    let mut sources = Sources::start(&trackers, identities.collect(), options, move |peers| {
        drop(tell.send(Command::Peers(peers)));
    })?;
    let near = Arc::new(Mutex::new(BTreeSet::new()));
    // Whoever hears of us finds that we listen when we have the description. What has no tracker is
    // hardly private.
    let looks = options.lsd.unwrap_or(options.more_trackers.is_empty());
    if looks && options.listen.port() != 0 {
        let (tell, heard) = (mailbox.clone(), Arc::clone(&near));
        let names = magnet.names.iter().map(|name| name.wire());
        sources.discover(names, options.listen, move |peers| {
            lock(&heard).extend(peers.iter().copied());
            drop(tell.send(Command::Peers(peers)));
        });
    }
    options
        .events
        .note("Asking peers what the magnet link describes");
    let (done, is_done) = crossbeam::channel::bounded::<()>(1);
    let watch = watch(sources, &mailbox, is_done, until, options)?;
    let found = run(scout, &commands, options);
    drop(done);
    if watch.join().is_err() {
        tracing::error!("The watching thread had panicked");
    }
    let found = found?;
    match found {
        Some(Event::Found(torrent)) => {
            let near = std::mem::take(&mut *lock(&near)).into_iter().collect();
            Ok((*torrent, near))
        }
        Some(Event::Useless(error)) => Err(Error::new(Kind::Usage, error)),
        Some(Event::WrongHashes(_)) | None if options.interrupt.get().is_some() => {
            Err(Error::text(Kind::Interrupted, "Stopped"))
        }
        Some(Event::WrongHashes(_)) | None => Err(Error::text(
            Kind::Network,
            "No peer has what the link describes",
        )
        .hint("name one that has: --peer ADDRESS:PORT; or look on this network: --lsd")),
    }
}

/// Lets the scout work until it has found something, or is stopped.
fn run(mut scout: Scout, commands: &Commands<Command>, options: &Options) -> Result<Option<Event>> {
    let setup = Setup {
        sockets: Vec::new(),
        listeners: Vec::new(),
        files: Vec::new(),
        arena: None,
        ways: options.ways,
        counters: Arc::new(Counters::default()),
    };
    let mut found = None;
    let mut driver = Driver::new(setup).or_kind(Kind::Internal)?;
    let ended = driver.run(&mut scout, commands, |event| {
        if let Event::WrongHashes(peer) = event {
            let text = format!("{peer}: It sent wrong hashes and is banned");
            options.events.warn(text);
            return ControlFlow::Continue(());
        }
        found = Some(event);
        ControlFlow::Break(())
    });
    ended.or_kind(Kind::Network)?;
    Ok(found)
}

/// The peers that are named, by the user and by the link.
pub(super) fn peers(magnet: &Magnet, options: &Options) -> Vec<SocketAddr> {
    let named = magnet.peers.iter().filter_map(|peer| {
        let found = (peer.host.as_str(), peer.port).to_socket_addrs();
        found.ok()?.next()
    });
    options.peers.iter().copied().chain(named).collect()
}

/// Stops the scout when the time is over or the user wishes it, on a thread of its own; keeps the
/// trackers busy until the job is `done`.
fn watch(
    mut sources: Sources,
    mailbox: &Mailbox<Command>,
    done: Receiver<()>,
    until: Option<Instant>,
    options: &Options,
) -> Result<JoinHandle<()>> {
    let (watched, interrupt) = (mailbox.clone(), options.interrupt.clone());
    let work = move || {
        let late = || until.is_some_and(|until| Instant::now() >= until);
        while done
            .recv_timeout(TICK)
            .is_err_and(|error| error.is_timeout())
        {
            // Trackers are asked again soon while nobody is known.
            sources.tell(&Stats::default(), 1, false);
            if late() || interrupt.get().is_some() {
                watched.stop();
                break;
            }
        }
        sources.end();
    };
    let thread = std::thread::Builder::new().name("watch".to_owned());
    thread.spawn(work).or_kind(Kind::Internal)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|broken| broken.into_inner())
}

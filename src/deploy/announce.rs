//! Announcements on both sides: the head's thread that tells once per second what it has, and the
//! node's search for a head that its token accepts.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::beacon::{Beacon, Datagrams};
use super::control::ImageInfo;
use super::error::{Error, Kind, OrKind as _, Result};
use super::identity::{self, Identity};
use super::net::{self, NetOptions};
use super::token::Fingerprint;
use crate::base::Serial;
use crate::base::counter::Counters;
use crate::base::id::ImageName;
use crate::engine::{Driver, Interface, Mailbox, Setup, Socket, mailbox};
use crate::multicast::announce::{AnnouncedImage, Announcement, Announcer, Heard, Listener};

/// How many heads may be heard before the search has looked at them.
const HEARD_WAITING_MAX: usize = 64;

/// How long a head that was heard is given to announce the image.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// The head's announcing thread; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Announcing {
    mailbox: Mailbox<Datagrams>,
    thread: Option<JoinHandle<()>>,
    /// What the beacon sends; `None` where there can be none.
    beacon: Option<(Beacon, Arc<Mutex<Datagrams>>)>,
    instance: [u8; 16],
    control_port: u16,
}

impl Announcing {
    /// Starts a silent announcer on `interface`.
    ///
    /// # Errors
    /// If the socket or the thread cannot be had.
    pub(crate) fn start(
        interface: &Interface,
        net: &NetOptions,
        control_port: u16,
    ) -> Result<Self> {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = Socket::multicast_sender(bind, interface, net.ttl)
            .or_kind_with(Kind::Network, || format!("Cannot announce on {interface}"))?;
        let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
        let setup = Setup {
            sockets: vec![socket],
            listeners: Vec::new(),
            files: Vec::new(),
            arena: None,
            ways: crate::engine::Ways::PLAIN,
            counters: Arc::new(Counters::default()),
        };
        let run = move || {
            let driven = Driver::new(setup).and_then(|mut driver| {
                let mut machine = Announcer::new(net::announcements());
                driver.run(&mut machine, &commands, |never| match never {})
            });
            if let Err(error) = driven {
                tracing::warn!(%error, "Announcements ended");
            }
        };
        let thread = std::thread::Builder::new()
            .name("announce".to_owned())
            .spawn(run)
            .or_kind(Kind::Internal)?;
        let datagrams = Arc::new(Mutex::new(Vec::new()));
        let beacon = Beacon::send(interface, Arc::clone(&datagrams))
            .inspect_err(|error| tracing::info!(%error, "No broadcasts"))
            .ok();
        Ok(Self {
            mailbox,
            thread: Some(thread),
            beacon: beacon.map(|beacon| (beacon, datagrams)),
            instance: super::random()?,
            control_port,
        })
    }

    /// Says from now on that the head has `images`.
    pub(crate) fn tell(&self, identity: &Identity, images: &[ImageInfo]) {
        let images: Vec<AnnouncedImage> = images.iter().filter_map(announced).collect();
        let head = *identity.public().as_bytes();
        let parts = Announcement::split(head, self.control_port, self.instance, &images);
        let datagrams = parts.iter().map(|part| {
            let mut bytes = part.encode();
            let signature = identity.sign_announcement(&bytes);
            bytes.extend_from_slice(&signature);
            bytes
        });
        let datagrams: Datagrams = datagrams.collect();
        if let Some((_, sent)) = &self.beacon {
            let mut sent = sent.lock().unwrap_or_else(|broken| broken.into_inner());
            sent.clone_from(&datagrams);
        }
        if let Err(error) = self.mailbox.send(datagrams) {
            tracing::warn!(%error, "The announcements could not be changed");
        }
    }
}

impl Drop for Announcing {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The announcing thread had panicked");
        }
    }
}

fn announced(info: &ImageInfo) -> Option<AnnouncedImage> {
    let root = super::unhex(info.root.get(..16)?)?;
    Some(AnnouncedImage {
        name: info.name.parse().ok()?,
        serial: Serial(info.serial),
        root: root.try_into().ok()?,
    })
}

/// A head that announces what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its control channel.
    pub(crate) head: SocketAddr,
}

/// Listens until the head with this fingerprint announces `name`, for `patience` at most.
///
/// # Errors
/// [`Kind::Network`] when nothing was heard of it, [`Kind::Precondition`] when it does not have the
/// image.
pub(crate) fn find(
    net: &NetOptions,
    fingerprint: Fingerprint,
    name: &ImageName,
    serial: Option<Serial>,
    patience: Duration,
) -> Result<Found> {
    let interface = net.interface()?;
    let socket = Socket::multicast_receiver(net::announcements(), None, &interface)
        .or_kind_with(Kind::Network, || format!("Cannot listen on {interface}"))?;
    let setup = Setup {
        sockets: vec![socket],
        listeners: Vec::new(),
        files: Vec::new(),
        arena: None,
        ways: crate::engine::Ways::PLAIN,
        counters: Arc::new(Counters::default()),
    };
    let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
    let (sender, heard) = crossbeam::channel::bounded(HEARD_WAITING_MAX);
    let beacon = Beacon::hear(&interface, fingerprint, sender.clone())
        .inspect_err(|error| tracing::info!(%error, "Broadcasts are not heard"))
        .ok();
    let listen = move || {
        let mut machine = Listener::new(Box::new(move |announcement, bytes, signature| {
            Fingerprint::of(&announcement.head) == fingerprint
                && identity::is_signed(&announcement.head, bytes, signature)
        }));
        Driver::new(setup)?.run(&mut machine, &commands, |event| {
            // A full queue means that the search is behind; the head says it again.
            drop(sender.try_send(event));
            ControlFlow::Continue(())
        })
    };
    let thread = std::thread::Builder::new()
        .name("find".to_owned())
        .spawn(listen)
        .or_kind(Kind::Internal)?;
    let found = search(&heard, name, serial, patience);
    drop(beacon);
    mailbox.stop();
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "The search for a head ended early"),
        Err(_) => tracing::error!("The searching thread had panicked"),
    }
    found.map_err(|missed| missed.into_error(name, &interface, patience))
}

/// What a search without success has seen.
#[derive(Debug, Default)]
struct Missed {
    heads: usize,
    images: std::collections::BTreeSet<String>,
}

fn search(
    heard: &crossbeam::channel::Receiver<Heard>,
    name: &ImageName,
    serial: Option<Serial>,
    patience: Duration,
) -> std::result::Result<Found, Missed> {
    let mut until = Instant::now() + patience;
    let mut missed = Missed::default();
    while let Ok(Heard { from, announcement }) = heard.recv_deadline(until) {
        let fits = |image: &AnnouncedImage| {
            image.name == *name && serial.is_none_or(|serial| image.serial == serial)
        };
        if announcement.images.iter().any(fits) {
            let head = SocketAddr::new(from.ip(), announcement.control_port);
            return Ok(Found { head });
        }
        if missed.heads == 0 {
            // Its other parts come within this time, and so does what is published right now.
            until = until.min(Instant::now() + LIST_PATIENCE);
        }
        missed.heads += 1;
        let names = announcement.images.iter();
        missed
            .images
            .extend(names.map(|image| format!("{}@{}", image.name, image.serial)));
    }
    Err(missed)
}

impl Missed {
    fn into_error(self, name: &ImageName, interface: &Interface, patience: Duration) -> Error {
        if self.heads == 0 {
            let text = format!(
                "No head with the token's key was heard on {interface} within {} s",
                patience.as_secs()
            );
            return Error::text(Kind::Network, text).hint(
                "is `flashover serve` running, and does multicast reach this node? \
                 Name the head to go without: --head ADDRESS",
            );
        }
        let names: Vec<String> = self.images.into_iter().collect();
        let text = format!(
            "The head does not publish {name}; it has: {}",
            names.join(", ")
        );
        Error::text(Kind::Precondition, text).hint("on the head: flashover image publish NAME")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(images: &[(&str, u64)]) -> Heard {
        let images = images.iter().map(|&(name, serial)| AnnouncedImage {
            name: name.parse().unwrap(),
            serial: Serial(serial),
            root: [0; 8],
        });
        let images: Vec<_> = images.collect();
        Heard {
            from: "10.0.0.1:5".parse().unwrap(),
            announcement: Announcement::split([1; 32], 7081, [2; 16], &images)[0].clone(),
        }
    }

    fn searched(
        said: Vec<Heard>,
        name: &str,
        serial: Option<u64>,
    ) -> std::result::Result<Found, Missed> {
        let (sender, receiver) = crossbeam::channel::bounded(HEARD_WAITING_MAX);
        for one in said {
            sender.send(one).unwrap();
        }
        drop(sender);
        let name = name.parse().unwrap();
        search(&receiver, &name, serial.map(Serial), Duration::from_secs(9))
    }

    #[test]
    fn the_head_that_has_the_image_is_found_and_what_others_have_is_named() {
        let said = || vec![heard(&[("a", 1)]), heard(&[("a", 2), ("b", 1)])];
        let found = searched(said(), "b", None).unwrap();
        assert_eq!(found.head, "10.0.0.1:7081".parse().unwrap());
        assert!(searched(said(), "a", Some(2)).is_ok());
        let missed = searched(said(), "a", Some(3)).unwrap_err();
        assert_eq!(missed.heads, 2);
        assert_eq!(missed.images.len(), 3);
    }

    #[test]
    fn an_image_is_announced_by_the_front_of_its_root() {
        let mut info = ImageInfo {
            name: "a".to_owned(),
            serial: 3,
            root: "ab".repeat(32),
            bytes: 5,
        };
        assert_eq!(announced(&info).unwrap().root, [0xab; 8]);
        info.root.truncate(10);
        assert_eq!(announced(&info), None);
    }
}

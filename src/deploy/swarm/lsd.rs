//! Local discovery (BEP 14) on interfaces of this machine: a thread that runs a [`Discovery`] until
//! its handle is dropped. What it hears goes to the function that its owner gave.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::counter::Counters;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::engine::net::interface::Family;
use crate::engine::{Driver, Interface, Mailbox, Setup, Socket, Ways, mailbox};
use crate::machine::Channel;
use crate::swarm::lsd::{Command, Config, Discovery, Found, GROUP_V4, GROUP_V6};

/// The most interfaces: a driver has so many sockets that a byte counts them.
const INTERFACES_MAX: usize = 32;

/// How peers are looked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where this peer listens, not 0.
    pub port: u16,
    /// The time between announcements of a torrent.
    pub interval: Duration,
    /// The least time between them, whatever is heard.
    pub interval_min: Duration,
    /// Random.
    pub seed: u64,
}

/// A running discovery; dropping it ends it.
#[derive(Debug)]
pub struct LocalDiscovery {
    mailbox: Mailbox<Command>,
    thread: Option<JoinHandle<()>>,
}

impl LocalDiscovery {
    /// Announces and listens on `interfaces`, by each family that they have addresses of. `found`
    /// is called on the thread of the discovery and must not block.
    ///
    /// # Errors
    /// If none of the interfaces can be used, or the thread cannot be had.
    pub fn start(
        interfaces: &[Interface],
        options: &Options,
        mut found: impl FnMut(Found) + Send + 'static,
    ) -> Result<Self> {
        let mut sockets = Vec::new();
        let mut groups = Vec::new();
        for interface in interfaces.iter().take(INTERFACES_MAX) {
            for group in [GROUP_V4, GROUP_V6] {
                let family = if group.is_ipv4() {
                    Family::V4
                } else {
                    Family::V6
                };
                if interface.address(family).is_none() {
                    continue;
                }
                match open(interface, group) {
                    Ok([sender, receiver]) => {
                        let channel = u8::try_from(sockets.len()).or_kind(Kind::Internal)?;
                        groups.push((Channel(channel), group));
                        sockets.extend([sender, receiver]);
                    }
                    Err(error) => {
                        tracing::debug!(%interface, %group, %error, "No peers are looked for here");
                    }
                }
            }
        }
        if sockets.is_empty() {
            let text = "Peers of this network cannot be looked for on any interface";
            return Err(Error::text(Kind::Network, text));
        }
        let config = Config {
            port: options.port,
            groups,
            interval: options.interval,
            interval_min: options.interval_min,
            seed: options.seed,
        };
        let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
        let setup = Setup {
            sockets,
            listeners: Vec::new(),
            files: Vec::new(),
            arena: None,
            ways: Ways::PLAIN,
            counters: Arc::new(Counters::default()),
        };
        let run = move || {
            let driven = Driver::new(setup).and_then(|mut driver| {
                driver.run(&mut Discovery::new(config), &commands, |heard| {
                    found(heard);
                    ControlFlow::Continue(())
                })
            });
            if let Err(error) = driven {
                tracing::warn!(%error, "Local discovery ended");
            }
        };
        let thread = std::thread::Builder::new()
            .name("lsd".to_owned())
            .spawn(run)
            .or_kind(Kind::Internal)?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
        })
    }

    /// Announces a torrent, the first time at once, and tells of its peers from now on.
    pub fn seek(&self, name: [u8; 20]) {
        self.tell(Command::Seek(name));
    }

    /// Leaves a torrent.
    pub fn forget(&self, name: [u8; 20]) {
        self.tell(Command::Forget(name));
    }

    fn tell(&self, command: Command) {
        if let Err(error) = self.mailbox.send(command) {
            tracing::warn!(%error, "Local discovery does not hear");
        }
    }
}

impl Drop for LocalDiscovery {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread of local discovery had panicked");
        }
    }
}

/// A socket that sends to a group, and one that hears it. Two, so that what comes is of the group
/// alone, and what goes has a port that no other peer of this machine has.
fn open(interface: &Interface, group: SocketAddr) -> Result<[Socket; 2]> {
    let any = if group.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let sender = Socket::multicast_sender(any, interface, 1).or_kind(Kind::Network)?;
    let receiver = Socket::multicast_receiver(group, None, interface).or_kind(Kind::Network)?;
    Ok([sender, receiver])
}

//! Where peers of a torrent come from: its trackers, and this network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Options;
use crate::deploy::error::{Kind, OrKind as _, Result};
use crate::deploy::runtime::Runtime;
use crate::deploy::swarm::announce::{self, Told};
use crate::deploy::swarm::lsd::{self, LocalDiscovery};
use crate::engine::Interface;
use crate::swarm::torrent::Stats;
use crate::swarm::tracker::TrackerUrl;
use crate::swarm::tracker::announcer::{Identity, Progress};

/// Messages that may wait between the job and its sources.
const QUEUE: usize = 16;
/// The time between two announcements on this network (BEP 14).
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(300);
/// The least time between them. BEP 14 has a minute: so long a newcomer might wait for its peers.
const DISCOVERY_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// The sources; dropping them ends them.
pub(super) struct Sources {
    /// To those who speak with trackers, one for each name of the torrent.
    told: Vec<mpsc::Sender<Told>>,
    runtime: Option<Runtime>,
    /// Disconnected when all goodbyes are said.
    talking: Option<std::sync::mpsc::Receiver<()>>,
    network: Option<LocalDiscovery>,
    was_complete: bool,
    said: Progress,
}

impl Sources {
    /// Begins to ask these trackers, for each of these identities: a hybrid is in the swarms of
    /// both its names (BEP 52 "upgrade path"). What they tell goes to `found`, on a thread of its
    /// own.
    pub(super) fn start(
        trackers: &[Vec<String>],
        identities: Vec<Identity>,
        options: &Options,
        found: impl Fn(Vec<SocketAddr>) + Clone + Send + 'static,
    ) -> Result<Self> {
        let usable = |url: &String| usable(url, options);
        let tiers = trackers
            .iter()
            .map(|tier| tier.iter().filter_map(usable).collect());
        let tiers: Vec<Vec<TrackerUrl>> = tiers.collect();
        let mut sources = Self {
            told: Vec::new(),
            runtime: None,
            talking: None,
            network: None,
            was_complete: false,
            said: Progress::default(),
        };
        if options.trackers && !tiers.iter().all(Vec::is_empty) {
            sources.announce(identities, &tiers, &found)?;
        }
        Ok(sources)
    }

    fn announce(
        &mut self,
        identities: Vec<Identity>,
        tiers: &[Vec<TrackerUrl>],
        found: &(impl Fn(Vec<SocketAddr>) + Clone + Send + 'static),
    ) -> Result {
        let (talks, talking) = std::sync::mpsc::channel::<()>();
        let runtime = Runtime::start("trackers")?;
        for identity in identities {
            let config = announce::Config {
                identity,
                tiers: tiers.to_vec(),
                seed: u64::from_be_bytes(crate::deploy::random()?),
            };
            let (told, hears) = mpsc::channel(QUEUE);
            let (talks, found) = (talks.clone(), found.clone());
            runtime.spawn(move || async move {
                let (tells, mut peers) = mpsc::channel(QUEUE);
                let passing = async {
                    while let Some(peers) = peers.recv().await {
                        found(peers);
                    }
                };
                tokio::join!(announce::run(config, hears, tells), passing);
                drop(talks);
            })?;
            self.told.push(told);
        }
        self.runtime = Some(runtime);
        self.talking = Some(talking);
        Ok(())
    }

    /// Begins to look for peers on this network, for whoever goes by one of these names and listens
    /// at `listens_on`. Where that cannot be, none are looked for.
    pub(super) fn discover(
        &mut self,
        names: impl IntoIterator<Item = [u8; 20]>,
        listens_on: SocketAddr,
        found: impl Fn(Vec<SocketAddr>) + Send + 'static,
    ) {
        let started = interfaces(listens_on.ip()).and_then(|interfaces| {
            let options = lsd::Options {
                port: listens_on.port(),
                interval: DISCOVERY_INTERVAL,
                interval_min: DISCOVERY_INTERVAL_MIN,
                seed: u64::from_be_bytes(crate::deploy::random()?),
            };
            LocalDiscovery::start(&interfaces, &options, move |heard| found(vec![heard.peer]))
        });
        match started {
            Ok(discovery) => {
                names.into_iter().for_each(|name| discovery.seek(name));
                self.network = Some(discovery);
            }
            Err(error) => tracing::debug!(%error, "Peers of this network are not looked for"),
        }
    }

    /// Tells the trackers how the torrent does.
    pub(super) fn tell(&mut self, stats: &Stats, left: u64, is_complete: bool) {
        let is_news = is_complete && !self.was_complete;
        let event = if is_news && stats.bytes_in > 0 {
            announce::Event::Completed
        } else if stats.peers == 0 && !is_complete {
            announce::Event::Hungry
        } else {
            announce::Event::None
        };
        self.said = progress(stats, left);
        let told = Told {
            progress: self.said,
            event,
        };
        let heard = self.told.iter().filter(|it| it.try_send(told).is_ok());
        // What does not fit now is said the next time.
        if heard.count() == self.told.len() {
            self.was_complete = is_complete;
        }
    }

    /// Looks for peers no more, and says goodbye to the trackers, for a moment at most.
    pub(super) fn end(&mut self) {
        drop(self.network.take());
        let goodbye = Told {
            progress: self.said,
            event: announce::Event::Stopped,
        };
        for told in self.told.drain(..) {
            // Without room for it the end of the channel says the same.
            let _is_said = told.try_send(goodbye).is_ok();
        }
        if let Some(talking) = self.talking.take() {
            let patience = announce::FAREWELL_DEADLINE + Duration::from_secs(1);
            // Nothing is ever sent: it ends with the talk, or the patience.
            let _over = talking.recv_timeout(patience).is_err();
        }
        drop(self.runtime.take());
    }
}

/// The interfaces by which peers that hear of it can come to a listener, each with the addresses
/// of the listener's family.
fn interfaces(listens_on: IpAddr) -> Result<Vec<Interface>> {
    let mut all = Interface::all().or_kind(Kind::Network)?;
    all.retain_mut(|interface| {
        let is_reached = |address: &IpAddr| {
            let is_of_family = address.is_ipv4() == listens_on.is_ipv4();
            is_of_family && (listens_on.is_unspecified() || *address == listens_on)
        };
        interface.addresses.retain(is_reached);
        let is_usable = interface.up && interface.multicast && !interface.loopback;
        is_usable && !interface.addresses.is_empty()
    });
    Ok(all)
}

fn progress(stats: &Stats, left: u64) -> Progress {
    Progress {
        uploaded: stats.bytes_out,
        downloaded: stats.bytes_in,
        left,
    }
}

/// Reads the address of a tracker; one that is not understood is told of and passed over.
fn usable(url: &str, options: &Options) -> Option<TrackerUrl> {
    let read = url.parse::<TrackerUrl>();
    if let Err(error) = &read {
        options
            .events
            .warn(format!("The tracker {url} is not asked: {error}"));
    }
    read.ok()
}

//! Where and how a job uses the network: what the user asked for, and what this machine has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::error::{Error, Kind, OrKind as _, Result};
use super::offer::Offer;
use super::path::{IP_UDP_BYTES, MTU_LARGE, MTU_LEAST};
use crate::engine::Interface;
use crate::engine::net::Listener;
use crate::engine::net::interface::Family;
use crate::multicast::announce::{ANNOUNCE_GROUP, ANNOUNCE_PORT};
use crate::multicast::wire::DATA_OVERHEAD;

pub use crate::engine::Ways;

/// The port of the groups unless another is asked for.
pub const GROUP_PORT_DEFAULT: u16 = 7080;
/// The first port where peers connect unless another is asked for.
pub const SWARM_PORT_DEFAULT: u16 = 7082;
/// Ports that are tried before the kernel chooses.
const SWARM_PORTS_TRIED: u16 = 16;
/// Symbols are a multiple of this size, so that blocks stay aligned.
const SYMBOL_STEP: u32 = 64;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The interface: its name, index or address; `None` chooses.
    pub interface: Option<String>,
    /// The group of the data; `None` derives one of 239.255/16 from the session.
    pub group: Option<Ipv4Addr>,
    /// The port of the group.
    pub port: u16,
    /// How many networks multicast may cross; 1 is the own network.
    pub ttl: u8,
    /// The most bytes per second that are sent.
    pub rate_bytes_per_s_max: Option<u64>,
    /// Whether the head asks for IGMP memberships.
    pub igmp_querier: bool,
    /// Bytes of payload per datagram; `None` follows what comes through to every node.
    pub symbol_size: Option<u16>,
    /// The TCP port where peers connect; if it is taken, one of the next.
    pub swarm_port: u16,
    /// What a head offers.
    pub offer: Offer,
    /// How the kernel may be asked.
    pub ways: Ways,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            interface: None,
            group: None,
            port: GROUP_PORT_DEFAULT,
            ttl: 1,
            rate_bytes_per_s_max: None,
            igmp_querier: false,
            symbol_size: None,
            swarm_port: SWARM_PORT_DEFAULT,
            offer: Offer::AUTO,
            ways: Ways::BEST,
        }
    }
}

impl NetOptions {
    /// Finds the interface.
    ///
    /// # Errors
    /// If there is none, or the user must say which.
    pub(crate) fn interface(&self) -> Result<Interface> {
        let found = match &self.interface {
            Some(name) => Interface::find(name),
            None => Interface::pick_default(Family::V4),
        };
        found.map_err(|error| {
            Error::new(Kind::Precondition, error).hint("name one: --interface NAME; see `ip link`")
        })
    }

    /// The interface towards `head`: the named one, or the one that routing would use.
    ///
    /// # Errors
    /// As [`NetOptions::interface`].
    pub(crate) fn interface_towards(&self, head: IpAddr) -> Result<Interface> {
        if self.interface.is_none()
            && let Ok(local) = local_address_towards(head)
            && let Ok(found) = Interface::find(&local.to_string())
        {
            return Ok(found);
        }
        self.interface()
    }

    /// Bytes of payload per datagram on `interface` to nodes that an MTU of `path_mtu` reaches.
    ///
    /// # Errors
    /// If the user's choice, or the MTU, leaves no room for a symbol.
    pub(crate) fn symbol_size(&self, interface: &Interface, path_mtu: u32) -> Result<u16> {
        let overhead = IP_UDP_BYTES + u32::try_from(DATA_OVERHEAD).or_kind(Kind::Internal)?;
        let room = interface.mtu.saturating_sub(overhead);
        // Who takes less than the least does not keep the group from it: it is served otherwise.
        let path_mtu = path_mtu.clamp(MTU_LEAST, MTU_LARGE);
        let usual = interface.mtu.min(path_mtu).saturating_sub(overhead);
        let largest = usual / SYMBOL_STEP * SYMBOL_STEP;
        let size = match self.symbol_size {
            None => largest,
            Some(asked) if u32::from(asked) <= room && asked > 0 => u32::from(asked),
            Some(asked) => {
                let text = format!(
                    "A symbol of {asked} bytes does not fit the MTU of {interface}, at most {room} do"
                );
                return Err(Error::text(Kind::Usage, text));
            }
        };
        match u16::try_from(size) {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(Error::text(
                Kind::Precondition,
                format!("The MTU of {interface} is too small"),
            )),
        }
    }

    /// Listens for peers at `ip`.
    ///
    /// # Errors
    /// If no port can be had there.
    pub(crate) fn listen_for_peers(&self, ip: IpAddr) -> Result<Listener> {
        let first = self.swarm_port;
        let near = (0..SWARM_PORTS_TRIED).filter_map(|step| first.checked_add(step));
        let bind = |port| Listener::bind(SocketAddr::new(ip, port));
        near.filter(|port| *port != 0)
            .find_map(|port| bind(port).ok())
            .map_or_else(|| bind(0), Ok)
            .or_kind_with(Kind::Network, || format!("Cannot listen for peers at {ip}"))
    }

    /// The group of a session: the asked one, or one that follows from the session's id.
    pub(crate) fn group(&self, tsi: u32) -> SocketAddr {
        let [_, _, high, low] = tsi.to_be_bytes();
        // The last octet is never 0 or 255, and the announcements keep their group.
        let derived = Ipv4Addr::new(239, 255, high, low.clamp(1, 254));
        let derived = if derived == ANNOUNCE_GROUP {
            Ipv4Addr::new(239, 255, high, 1)
        } else {
            derived
        };
        SocketAddr::new(self.group.unwrap_or(derived).into(), self.port)
    }
}

/// Where heads announce what they have.
pub(crate) const fn announcements() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ANNOUNCE_GROUP), ANNOUNCE_PORT)
}

/// The own address that routing would use towards `head`; nothing is sent.
fn local_address_towards(head: IpAddr) -> std::io::Result<IpAddr> {
    let any = crate::engine::net::any_address(head, 0);
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect((head, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// This machine's host name, for people.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(mtu: u32) -> Interface {
        Interface {
            name: "eth0".to_owned(),
            index: 2,
            addresses: Vec::new(),
            mtu,
            up: true,
            multicast: true,
            loopback: false,
        }
    }

    #[test]
    fn symbols_follow_the_mtu() {
        let options = NetOptions::default();
        for (mtu, path_mtu, size) in [
            (1500, 1500, 1408),
            (9000, 1500, 1408),
            (9000, 9000, 8896),
            (1500, 9000, 1408),
            (65536, 65536, 8896),
            (1500, 1450, 1344),
            (1500, 0, 1152),
            (576, 1500, 448),
        ] {
            let found = options.symbol_size(&interface(mtu), path_mtu).unwrap();
            assert_eq!(found, size, "{mtu}, {path_mtu}");
        }
        assert!(options.symbol_size(&interface(100), 1500).is_err());
        let asked = |symbol_size| NetOptions {
            symbol_size: Some(symbol_size),
            ..NetOptions::default()
        };
        assert_eq!(
            asked(1424).symbol_size(&interface(1500), 1280).unwrap(),
            1424
        );
        assert_eq!(
            asked(8192).symbol_size(&interface(9000), 1500).unwrap(),
            8192
        );
        let error = asked(1425).symbol_size(&interface(1500), 1500).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }

    #[test]
    fn groups_are_local_and_never_that_of_the_announcements() {
        let options = NetOptions::default();
        assert_eq!(options.group(0x0102_0304).to_string(), "239.255.3.4:7080");
        assert_eq!(options.group(0).to_string(), "239.255.0.1:7080");
        let [_, _, high, low] = ANNOUNCE_GROUP.octets();
        let taken = u32::from_be_bytes([9, 9, high, low]);
        assert_ne!(options.group(taken).ip(), IpAddr::V4(ANNOUNCE_GROUP));
    }
}

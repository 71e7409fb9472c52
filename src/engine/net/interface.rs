//! The network interfaces of this machine, and which one to use when nobody says.

use std::fmt;
use std::fs;
use std::net::{IpAddr, UdpSocket};

use super::sys;
use crate::engine::error::{Error, ErrorKind, Result};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, like `eth0`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The longest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// Whether it is up and has a link.
    pub up: bool,
    /// Whether it can send to groups. Loopback counts, though the kernel does not say so of it.
    pub multicast: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
}

impl Interface {
    /// Lists all interfaces of this network namespace, in order of index.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn all() -> Result<Vec<Self>> {
        let failed = |e| Error::os(ErrorKind::Interface, "Cannot list network interfaces", e);
        let entries = sys::interface_entries().map_err(failed)?;
        let socket = probe_socket().map_err(failed)?;
        let mut interfaces: Vec<Self> = Vec::new();
        for entry in entries {
            let known = interfaces.iter().position(|i| i.name == entry.name);
            let at = match known {
                Some(at) => at,
                None => {
                    // An interface that vanishes between two calls is none of ours.
                    let Some(found) = describe(&socket, &entry) else {
                        continue;
                    };
                    interfaces.push(found);
                    interfaces.len() - 1
                }
            };
            interfaces[at].addresses.extend(entry.address);
        }
        interfaces.sort_by_key(|interface| interface.index);
        Ok(interfaces)
    }

    /// Finds an interface by its name, its index or one of its addresses.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(wanted: &str) -> Result<Self> {
        let address: Option<IpAddr> = wanted.parse().ok();
        let index: Option<u32> = wanted.parse().ok();
        Self::all()?
            .into_iter()
            .find(|interface| {
                interface.name == wanted
                    || Some(interface.index) == index
                    || address.is_some_and(|address| interface.addresses.contains(&address))
            })
            .ok_or_else(|| {
                let context = format!("There is no network interface {wanted}");
                Error::new(ErrorKind::Interface, context)
            })
    }

    /// Picks the interface for an IPv4 or IPv6 group when nobody says which.
    ///
    /// It is the one with the default route; else the only one that is up, can multicast and has an
    /// address; else, when there is no such one, the loopback.
    ///
    /// # Errors
    /// When several fit equally, or none.
    pub fn pick_default(family: Family) -> Result<Self> {
        let routes = match family {
            Family::V4 => fs::read_to_string("/proc/thread-self/net/route"),
            Family::V6 => fs::read_to_string("/proc/thread-self/net/ipv6_route"),
        };
        let default = match family {
            Family::V4 => default_route_v4(&routes.unwrap_or_default()),
            Family::V6 => default_route_v6(&routes.unwrap_or_default()),
        };
        choose(Self::all()?, family, default.as_deref())
    }

    /// The interface's first address of a family, for binding or showing; link-local ones last.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let fits = |address: &&IpAddr| family.has(address);
        let local = |address: &&IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        self.addresses
            .iter()
            .filter(fits)
            .min_by_key(local)
            .copied()
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        Self::of(*address) == self
    }
}

/// Any socket, for asking about interfaces; a machine may have either family switched off.
fn probe_socket() -> std::io::Result<UdpSocket> {
    UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))
}

fn describe(socket: &UdpSocket, entry: &sys::InterfaceEntry) -> Option<Interface> {
    let index = rustix::net::netdevice::name_to_index(socket, &entry.name).ok()?;
    let has = |flag: i32| entry.flags & flag.cast_unsigned() != 0;
    Some(Interface {
        index,
        addresses: Vec::new(),
        mtu: sys::interface_mtu(socket, &entry.name).ok()?,
        up: has(libc::IFF_UP) && has(libc::IFF_RUNNING),
        multicast: has(libc::IFF_MULTICAST) || has(libc::IFF_LOOPBACK),
        loopback: has(libc::IFF_LOOPBACK),
        name: entry.name.clone(),
    })
}

fn choose(all: Vec<Interface>, family: Family, default: Option<&str>) -> Result<Interface> {
    let fits = |i: &Interface| i.up && i.multicast && i.address(family).is_some();
    if let Some(found) = all
        .iter()
        .find(|i| Some(i.name.as_str()) == default && fits(i))
    {
        return Ok(found.clone());
    }
    let (loopbacks, others): (Vec<_>, Vec<_>) =
        all.into_iter().filter(fits).partition(|i| i.loopback);
    if others.len() > 1 {
        let names: Vec<_> = others.iter().map(|i| i.name.as_str()).collect();
        let context = format!(
            "No default route says which network interface to use: {}",
            names.join(", ")
        );
        return Err(Error::new(ErrorKind::Interface, context));
    }
    others.into_iter().chain(loopbacks).next().ok_or_else(|| {
        Error::new(
            ErrorKind::Interface,
            "No network interface is up and can multicast",
        )
    })
}

/// The interface of the default route with the lowest metric, from `/proc/net/route`.
fn default_route_v4(table: &str) -> Option<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            let (to, metric, mask) = (fields.next()?, fields.nth(4)?, fields.next()?);
            let metric: u32 = metric.parse().ok()?;
            (to == "00000000" && mask == "00000000").then(|| (metric, name.to_owned()))
        })
        .min()
        .map(|(_, name)| name)
}

/// The interface of the default route with the lowest metric, from `/proc/net/ipv6_route`.
fn default_route_v6(table: &str) -> Option<String> {
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [to, prefix, _, _, _, metric, _, _, _, name] = fields[..] else {
                return None;
            };
            let metric = u32::from_str_radix(metric, 16).ok()?;
            let default = prefix == "00" && to.bytes().all(|byte| byte == b'0');
            (default && name != "lo").then(|| (metric, name.to_owned()))
        })
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, address: Option<&str>) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            addresses: address.iter().map(|a| a.parse().unwrap()).collect(),
            mtu: 1500,
            up: true,
            multicast: true,
            loopback: name == "lo",
        }
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth1 00000000 0101A8C0 0003 0 0 200 00000000 0 0 0\n\
            eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0\n\
            eth2 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(default_route_v4(table).as_deref(), Some("eth0"));
        assert_eq!(default_route_v4("Iface\n"), None);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n\
             {zero} 00 {zero} 00 {zero} 00000400 1 0 00000003 eth7\n"
        );
        assert_eq!(default_route_v6(&v6).as_deref(), Some("eth7"));
    }

    #[test]
    fn without_a_route_the_only_interface_wins_and_two_are_refused() {
        let lo = interface("lo", 1, Some("127.0.0.1"));
        let one = interface("eth0", 2, Some("10.0.0.1"));
        let two = interface("eth1", 3, Some("10.1.0.1"));
        let bare = interface("eth2", 4, None);
        let pick = |all: &[&Interface], route| {
            let all = all.iter().map(|&i| i.clone()).collect();
            choose(all, Family::V4, route).map(|i| i.name)
        };
        assert_eq!(pick(&[&lo, &one, &bare], None).unwrap(), "eth0");
        assert_eq!(pick(&[&lo, &bare], None).unwrap(), "lo");
        assert_eq!(pick(&[&lo, &one, &two], Some("eth1")).unwrap(), "eth1");
        assert_eq!(
            pick(&[&lo, &one, &two], None).unwrap_err().kind(),
            ErrorKind::Interface
        );
        assert!(pick(&[&bare], None).is_err());
    }

    #[test]
    fn loopback_is_found_by_name_index_and_address() {
        let by_name = Interface::find("lo").unwrap();
        assert!(by_name.loopback && by_name.multicast);
        assert_eq!(
            Interface::find(&by_name.index.to_string()).unwrap(),
            by_name
        );
        assert_eq!(Interface::find("127.0.0.1").unwrap(), by_name);
        assert!(Interface::find("no-such").is_err());
    }
}

//! The system calls that no safe crate offers: messages with ancillary data, group membership by
//! interface index, and the list of interfaces.
//!
//! Addresses and ancillary data are read and written as bytes, so only the calls themselves are
//! unsafe; `message` holds what is sent and received. Layouts: `man 7 ip`, `man 7 udp`,
//! `man 3 cmsg`.
#![allow(unsafe_code)]

mod gather;
mod message;
#[cfg(test)]
pub(crate) mod refuse;

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

pub use self::gather::Gather;
pub use self::message::{InMessages, OutMessage, batches};

/// Room for the longest address that a UDP socket has: `sockaddr_in6`.
pub const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for the ancillary data that a socket of ours gets: `UDP_GRO` and `SO_RXQ_OVFL`.
pub const CONTROL_BYTES: usize = 2 * CONTROL_STRIDE;

/// One ancillary item with up to 8 bytes of data.
const CONTROL_STRIDE: usize = CONTROL_HEADER + 8;
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

/// What the kernel says beside the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// The size of the coalesced datagrams, if there are several.
    pub segment_size: Option<usize>,
    /// Datagrams dropped on this socket since it was opened, if any were.
    pub dropped_total: Option<u32>,
}

impl Controls {
    /// Reads ancillary data; what is unknown or cut off is passed over.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut controls = Self::default();
        while let Some((header, rest)) = bytes.split_at_checked(CONTROL_HEADER) {
            let length = usize::from_ne_bytes(array(header, 0));
            let level = i32::from_ne_bytes(array(header, size_of::<usize>()));
            let kind = i32::from_ne_bytes(array(header, size_of::<usize>() + 4));
            let Some(data_len) = length.checked_sub(CONTROL_HEADER) else {
                break;
            };
            let Some(data) = rest.get(..data_len) else {
                break;
            };
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) if data_len >= 4 => {
                    let size = i32::from_ne_bytes(array(data, 0));
                    controls.segment_size = usize::try_from(size).ok().filter(|&size| size > 0);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if data_len >= 4 => {
                    controls.dropped_total = Some(u32::from_ne_bytes(array(data, 0)));
                }
                _ => {}
            }
            let next = length.next_multiple_of(size_of::<usize>());
            bytes = bytes.get(next..).unwrap_or_default();
        }
        controls
    }
}

/// `N` bytes from `at`; the caller has checked the length.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// Writes an address as the kernel wants it; gives the bytes and how many count.
#[must_use]
pub fn encode_address(address: SocketAddr) -> ([u8; NAME_BYTES], u32) {
    let mut name = [0_u8; NAME_BYTES];
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            name[..2].copy_from_slice(&family(libc::AF_INET));
            name[4..8].copy_from_slice(&v4.ip().octets());
            (name, 16)
        }
        SocketAddr::V6(v6) => {
            name[..2].copy_from_slice(&family(libc::AF_INET6));
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (name, 28)
        }
    }
}

/// Reads an address of the kernel; `None` when it is neither IPv4 nor IPv6.
#[must_use]
pub fn decode_address(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(array(name.get(..8)?, 2));
    if name[..2] == family(libc::AF_INET) {
        let ip = Ipv4Addr::from(array::<4>(name, 4));
        return Some(SocketAddrV4::new(ip, port).into());
    }
    if name[..2] == family(libc::AF_INET6) && name.len() >= NAME_BYTES {
        let ip = Ipv6Addr::from(array::<16>(name, 8));
        let flow = u32::from_ne_bytes(array(name, 4));
        let scope = u32::from_ne_bytes(array(name, 24));
        return Some(SocketAddrV6::new(ip, port, flow, scope).into());
    }
    None
}

fn family(family: i32) -> [u8; 2] {
    u16::try_from(family)
        .expect("an address family is a small positive number")
        .to_ne_bytes()
}

/// Sets an integer option of a socket.
///
/// # Errors
/// Whatever `setsockopt` says.
pub fn set_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(fd.as_fd(), level, name, &value.to_ne_bytes())
}

/// Sends IPv4 multicast through an interface, chosen by index.
///
/// # Errors
/// Whatever `setsockopt` says.
pub fn set_multicast_interface_v4(fd: impl AsFd, interface: u32) -> io::Result<()> {
    // struct ip_mreqn { in_addr group; in_addr address; i32 interface; }
    let mut request = [0_u8; 12];
    request[8..].copy_from_slice(&interface.to_ne_bytes());
    let (level, name) = (libc::SOL_IP, libc::IP_MULTICAST_IF);
    set_option_bytes(fd.as_fd(), level, name, &request)
}

/// Joins a group on an interface, for all sources or for one.
///
/// # Errors
/// Whatever `setsockopt` says; `InvalidInput` when group and source differ in family.
pub fn join(
    fd: impl AsFd,
    group: IpAddr,
    source: Option<IpAddr>,
    interface: u32,
) -> io::Result<()> {
    if source.is_some_and(|source| source.is_ipv4() != group.is_ipv4()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // struct group_req { u32 interface; sockaddr_storage group; } and group_source_req, which has
    // another sockaddr_storage; both are aligned as sockaddr_storage is.
    const STORAGE: usize = size_of::<libc::sockaddr_storage>();
    const FIRST: usize = align_of::<libc::sockaddr_storage>();
    let mut request = [0_u8; FIRST + 2 * STORAGE];
    request[..4].copy_from_slice(&interface.to_ne_bytes());
    let mut put = |at: usize, ip: IpAddr| {
        let (name, _) = encode_address(SocketAddr::new(ip, 0));
        request[at..at + NAME_BYTES].copy_from_slice(&name);
    };
    put(FIRST, group);
    let (name, length) = match source {
        None => (libc::MCAST_JOIN_GROUP, FIRST + STORAGE),
        Some(source) => {
            put(FIRST + STORAGE, source);
            (libc::MCAST_JOIN_SOURCE_GROUP, FIRST + 2 * STORAGE)
        }
    };
    let level = match group {
        IpAddr::V4(_) => libc::SOL_IP,
        IpAddr::V6(_) => libc::SOL_IPV6,
    };
    set_option_bytes(fd.as_fd(), level, name, &request[..length])
}

/// An entry of [`poll`]: what is waited for at a descriptor, and what has come.
#[must_use]
pub const fn polled(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Waits until one of `fds` has what it is asked for, no longer than `timeout`.
///
/// # Errors
/// Whatever `ppoll` says.
pub fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let count = libc::nfds_t::try_from(fds.len()).map_err(invalid)?;
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).map_err(invalid)?,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let (fds, timeout) = (fds.as_mut_ptr(), &raw const timeout);
    // SAFETY: `fds` has `count` entries and `timeout` is a local; a null mask changes no signals. A
    // descriptor that is closed or another's by now is only looked at.
    let ready = unsafe { libc::ppoll(fds, count, timeout, std::ptr::null()) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_option_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = u32::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let value = value.as_ptr().cast();
    // SAFETY: the kernel reads `length` bytes from `value`, which the slice keeps valid.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One entry of the kernel's list: an interface and one of its addresses, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// The interface's name.
    pub name: String,
    /// `IFF_*` flags.
    pub flags: u32,
    /// An IPv4 or IPv6 address of it.
    pub address: Option<IpAddr>,
}

/// Lists interfaces, one entry per address and at least one per interface.
///
/// # Errors
/// Whatever `getifaddrs` says.
pub fn interface_entries() -> io::Result<Vec<InterfaceEntry>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call writes one pointer to `head`.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut entries = Vec::new();
    let mut next = head;
    // SAFETY: the list's nodes are valid until freeifaddrs below, and its last `ifa_next` is null.
    while let Some(node) = unsafe { next.as_ref() } {
        // SAFETY: `ifa_name` is a C string that lives as long as its node.
        let name = unsafe { CStr::from_ptr(node.ifa_name) };
        entries.push(InterfaceEntry {
            name: name.to_string_lossy().into_owned(),
            flags: node.ifa_flags,
            address: entry_address(node.ifa_addr),
        });
        next = node.ifa_next;
    }
    // SAFETY: `head` came from getifaddrs, is freed once, and no reference into it is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(entries)
}

/// Reads the address of a list node; it is null, or valid for as long as its family says.
fn entry_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: getifaddrs gives null or a valid sockaddr that outlives this call.
    let length = match i32::from(unsafe { address.as_ref() }?.sa_family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    // SAFETY: an address of this family has this length.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) };
    decode_address(bytes).map(|address| address.ip())
}

/// The MTU of an interface, in bytes; `socket` is any socket of its network namespace.
///
/// # Errors
/// Whatever the ioctl says; `InvalidInput` when the name is too long.
pub fn interface_mtu(socket: impl AsFd, name: &str) -> io::Result<u32> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCGIFMTU reads the name and writes the MTU, both within `request`.
    let result = unsafe { libc::ioctl(fd, libc::SIOCGIFMTU as _, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the ioctl has set this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (CONTROL_HEADER + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn controls_are_read_in_any_order_among_others() {
        let mut bytes = control(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &9_u32.to_ne_bytes());
        bytes.extend(control(libc::SOL_IP, 8, &[1; 12]));
        bytes.extend(control(
            libc::SOL_UDP,
            libc::UDP_GRO,
            &1456_i32.to_ne_bytes(),
        ));
        let expected = Controls {
            segment_size: Some(1456),
            dropped_total: Some(9),
        };
        assert_eq!(Controls::parse(&bytes), expected);
        assert_eq!(
            Controls::parse(&bytes[..bytes.len() - 8]).segment_size,
            None
        );
    }

    proptest! {
        #[test]
        fn controls_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _controls = Controls::parse(&bytes);
        }

        #[test]
        fn addresses_round_trip(v6: bool, ip: u128, port: u16, scope: u32) {
            let address: SocketAddr = if v6 {
                SocketAddrV6::new(Ipv6Addr::from(ip), port, 7, scope).into()
            } else {
                let octets = u32::try_from(ip & 0xffff_ffff).unwrap();
                SocketAddrV4::new(Ipv4Addr::from(octets), port).into()
            };
            let (name, len) = encode_address(address);
            prop_assert_eq!(decode_address(&name[..len as usize]), Some(address));
        }

        #[test]
        fn address_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _address = decode_address(&bytes);
        }
    }

    #[test]
    fn loopback_is_listed_with_its_mtu() {
        let entries = interface_entries().unwrap();
        let lo = entries.iter().find(|entry| entry.name == "lo").unwrap();
        assert_ne!(lo.flags & libc::IFF_LOOPBACK.cast_unsigned(), 0);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(interface_mtu(&socket, "lo").unwrap() >= 1280);
        assert!(interface_mtu(&socket, "an-interface-with-a-long-name").is_err());
    }
}

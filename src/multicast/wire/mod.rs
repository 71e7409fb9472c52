//! The wire format: what the sender sends ([`lct`], and [`control`] inside it) and what receivers
//! send ([`report`]). All integers are big-endian.

pub mod control;
pub mod lct;
pub mod report;

use super::keys::TAG_SIZE;

/// The bytes of a data datagram besides its symbol: headers and tag.
pub const DATA_OVERHEAD: usize = lct::HEADER_SIZE + TAG_SIZE;

/// The largest symbol, a multiple of 64 bytes, that fits a path of `mtu` bytes over IPv4; `None` if
/// that is below 256. For IPv6 pass 20 less.
#[must_use]
pub fn symbol_size_for_mtu(mtu: u16) -> Option<u16> {
    let room = usize::from(mtu).checked_sub(IPV4_UDP_OVERHEAD + DATA_OVERHEAD)?;
    let size = u16::try_from(room / 64 * 64).ok()?;
    (size >= 256).then_some(size)
}

/// The headers of IPv4 and UDP, in bytes.
const IPV4_UDP_OVERHEAD: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_symbol_fills_an_ethernet_frame() {
        assert_eq!(symbol_size_for_mtu(1500), Some(1408));
        assert_eq!(symbol_size_for_mtu(9000), Some(8896));
        assert_eq!(symbol_size_for_mtu(300), None);
        assert_eq!(symbol_size_for_mtu(0), None);
        assert_eq!(1408 + DATA_OVERHEAD, 1456);
    }
}

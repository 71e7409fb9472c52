//! Options that several commands share, and how they become what `deploy` wants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::{CommandError, Kind, OrKind as _, Result};
use crate::base::units::{parse_duration, parse_rate};
use crate::deploy::Offer;
use crate::deploy::control::PORT_DEFAULT;
use crate::deploy::net::{GROUP_PORT_DEFAULT, NetOptions, SWARM_PORT_DEFAULT, Ways};
use crate::deploy::token::Token;

/// How the network is used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct NetArgs {
    /// Interface for multicast: its name, index or address [default: that of the default route]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Multicast group of the data [default: one of 239.255/16, from the session]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_group)]
    group: Option<Ipv4Addr>,
    /// UDP port of the group
    #[arg(long, value_name = "PORT", default_value_t = GROUP_PORT_DEFAULT)]
    port: u16,
    /// Networks that multicast may cross
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..)
    )]
    ttl: u8,
    /// TCP port where the nodes of a run connect to each other; one of the next if it is taken
    #[arg(long, value_name = "PORT", default_value_t = SWARM_PORT_DEFAULT)]
    swarm_port: u16,
    /// How the kernel may be asked to move bytes, as plain or ring,send,recvmmsg [default: the best
    /// that works; see `flashover doctor --engine`]
    #[arg(long, value_name = "WAYS", default_value_t, hide_default_value = true)]
    engine: Ways,
}

/// How a head sends.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct SendArgs {
    /// Send at most this many bits per second by multicast, and as many in the swarm, as 200mbit or
    /// 2.5g [default: as many as arrive]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate_max: Option<u64>,
    /// How nodes may have pieces: auto, or a list of multicast, swarm and http
    #[arg(long, value_name = "LIST", default_value_t)]
    via: Offer,
    /// Ask for IGMP memberships once a minute, for switches with snooping where no router asks
    #[arg(long)]
    igmp_querier: bool,
    /// Payload bytes per datagram [default: what every node gets, 1408 at an MTU of 1500]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(64..))]
    symbol_size: Option<u16>,
    /// Where the control channel listens (TCP), and where reports come in (UDP)
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        default_value = "0.0.0.0",
        value_parser = parse_listen
    )]
    listen: SocketAddr,
}

impl NetArgs {
    /// For a node.
    pub(super) fn to_options(&self) -> NetOptions {
        NetOptions {
            interface: self.interface.clone(),
            group: self.group,
            port: self.port,
            ttl: self.ttl,
            swarm_port: self.swarm_port,
            ways: self.engine,
            ..NetOptions::default()
        }
    }
}

impl SendArgs {
    /// For a head.
    pub(super) fn to_options(&self, net: &NetArgs) -> NetOptions {
        NetOptions {
            rate_bytes_per_s_max: self.rate_max,
            offer: self.via,
            igmp_querier: self.igmp_querier,
            symbol_size: self.symbol_size,
            ..net.to_options()
        }
    }

    pub(super) const fn listen(&self) -> SocketAddr {
        self.listen
    }
}

/// What binds node and head to each other.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TokenArgs {
    /// Join token; other users of this machine see it in `ps`, so prefer the file or the variable
    #[arg(
        long,
        value_name = "TOKEN",
        env = "FLASHOVER_TOKEN",
        hide_env_values = true
    )]
    token: Option<Token>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token, if one was given; a file comes before the variable.
    pub(super) fn get(&self) -> Result<Option<Token>> {
        let Some(path) = &self.token_file else {
            return Ok(self.token);
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| {
                anyhow::Error::new(error).context(format!("Cannot read {}", path.display()))
            })
            .or_kind(Kind::Trust)?;
        text.parse().map(Some).or_kind(Kind::Trust)
    }

    /// The token, which must be there.
    pub(super) fn need(&self) -> Result<Token> {
        self.get()?.ok_or_else(|| {
            CommandError::new(Kind::Trust, anyhow::anyhow!("A join token is needed")).hint(
                "make one on the head: flashover token create; give it by --token, \
                 --token-file or FLASHOVER_TOKEN",
            )
        })
    }
}

/// Where the head is and how long it may take.
#[derive(Clone, Debug, Args)]
pub(super) struct HeadArgs {
    /// The head, when its announcements do not come here [default: listen for it]
    #[arg(long, value_name = "ADDRESS[:PORT]", help_heading = "Network")]
    head: Option<String>,
    /// Give up after this time, as 90s, 20m or 2h [default: when nothing has come for 5 minutes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) deadline: Option<Duration>,
    /// When all is here and proven, serve other nodes that still lack pieces for this time at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(super) seed_time: Duration,
}

impl HeadArgs {
    /// The head's control channel, if it was named; a name is looked up.
    pub(super) fn head(&self) -> Result<Option<SocketAddr>> {
        let Some(text) = &self.head else {
            return Ok(None);
        };
        if let Some(address) = parse_address(text, PORT_DEFAULT) {
            return Ok(Some(address));
        }
        let named = if text.contains(':') {
            text.to_socket_addrs()
        } else {
            (text.as_str(), PORT_DEFAULT).to_socket_addrs()
        };
        let found = named
            .map_err(|error| {
                anyhow::Error::new(error).context(format!("The head {text} cannot be found"))
            })
            .or_kind(Kind::Network)?
            .next();
        found.map(Some).ok_or_else(|| {
            let cause = anyhow::anyhow!("The head {text} has no address");
            CommandError::new(Kind::Network, cause)
        })
    }
}

fn parse_address(text: &str, port: u16) -> Option<SocketAddr> {
    let address = text.parse().ok();
    address.or_else(|| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = bare.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    })
}

fn parse_listen(text: &str) -> Result<SocketAddr, &'static str> {
    parse_address(text, PORT_DEFAULT).ok_or("not an address, or address and port")
}

fn parse_group(text: &str) -> Result<Ipv4Addr, &'static str> {
    let group: Ipv4Addr = text.parse().map_err(|_| "not an IPv4 address")?;
    if group.is_multicast() {
        Ok(group)
    } else {
        Err("not a multicast group; 239.0.0.0 to 239.255.255.255 are free for local use")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_or_get_one() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:7081"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:7081"),
            ("[::1]", "[::1]:7081"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), address);
        }
        assert!(parse_listen("head").is_err());
    }

    #[test]
    fn groups_are_multicast() {
        assert!(parse_group("239.1.2.3").is_ok());
        assert!(parse_group("10.1.2.3").is_err());
    }
}

//! Where a tracker is: `http://HOST[:PORT]/PATH` or `udp://HOST:PORT[/PATH]`.

use std::fmt;
use std::str::FromStr;

use super::limits::URL_BYTES_MAX;

/// A checked URL of a tracker or web server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// From the `/` on, with the query.
    path: String,
}

/// How a tracker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// BEP 15.
    Udp,
}

/// Why a text is no URL of a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme than `http` and `udp`.
    #[error("Only http:// and udp:// are spoken")]
    Scheme,
    /// No host, a bad port, or characters that a URL cannot have.
    #[error("This is not a URL")]
    Malformed,
}

impl TrackerUrl {
    /// How it is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an address, that of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From the `/` on, with the query, if there is one.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port, as HTTP's `Host` wants them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The path that answers scrapes: the last part's `announce` made `scrape`. `None` if the last
    /// part does not start so.
    ///
    /// Source: BEP 48.
    #[must_use]
    pub fn scrape_path(&self) -> Option<String> {
        let (path, query) = match self.path.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (self.path.as_str(), String::new()),
        };
        let (folder, last) = path.rsplit_once('/')?;
        let rest = last.strip_prefix("announce")?;
        Some(format!("{folder}/scrape{rest}{query}"))
    }
}

impl FromStr for TrackerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>');
        if text.len() > URL_BYTES_MAX || !text.bytes().all(is_plain) {
            return Err(BadUrl::Malformed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Malformed)?;
        let (scheme, port_default) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Scheme::Http, Some(80)),
            "udp" => (Scheme::Udp, None),
            _ => return Err(BadUrl::Scheme),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => Some(port.parse().map_err(|_| BadUrl::Malformed)?),
            None => port_default,
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port: port.filter(|port| *port != 0).ok_or(BadUrl::Malformed)?,
            path: format!("{slash}{path}"),
        })
    }
}

fn split_authority(authority: &str) -> Result<(&str, Option<&str>), BadUrl> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(BadUrl::Malformed)?;
            let _: std::net::Ipv6Addr = host.parse().map_err(|_| BadUrl::Malformed)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(BadUrl::Malformed),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = !host.is_empty() && host.bytes().all(is_host);
    if is_name || authority.starts_with('[') {
        Ok((host, port))
    } else {
        Err(BadUrl::Malformed)
    }
}

impl fmt::Display for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Udp => "udp",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_reads_as_url_writes_back_as_the_same(
            host in "[a-z0-9][a-z0-9.-]{0,20}",
            port in 1u16..,
            path in "(/[a-z0-9?=&%]{0,20})?",
        ) {
            let url: TrackerUrl = format!("udp://{host}:{port}{path}").parse().unwrap();
            prop_assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let url: TrackerUrl = "HTTP://tracker.example/x/announce.php?k=1".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("tracker.example", 80));
        assert_eq!(url.path(), "/x/announce.php?k=1");
        assert_eq!(url.scrape_path().as_deref(), Some("/x/scrape.php?k=1"));
        let v6: TrackerUrl = "udp://[::1]:6969".parse().unwrap();
        assert_eq!((v6.host(), v6.port(), v6.path()), ("::1", 6969, "/"));
        assert_eq!(v6.authority(), "[::1]:6969");
        assert_eq!(v6.scrape_path(), None);
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "http://",
            "http:///x",
            "udp://host",
            "udp://host:0/",
            "http://a b/",
            "http://h:99999/",
            "http://[::1/",
            "http://[x]:1/",
            "http://u:p@host/",
            "http://h\r\nX: y/",
        ] {
            assert_eq!(
                text.parse::<TrackerUrl>(),
                Err(BadUrl::Malformed),
                "{text:?}"
            );
        }
        assert_eq!("https://a/".parse::<TrackerUrl>(), Err(BadUrl::Scheme));
    }
}

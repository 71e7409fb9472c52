//! The HTTP tracker protocol: queries and bencoded answers, both sides.
//!
//! ```text
//!   GET /announce?info_hash=%12...&peer_id=-FO..&port=6881&uploaded=0&downloaded=0&left=9
//!   d8:completei1e10:incompletei2e8:intervali60e12:min intervali5e5:peers6:......e
//! ```
//!
//! Source: BEP 3 "trackers"; BEP 7 and 23, compact peers; BEP 21, partial seeds; BEP 48, scrapes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::limits::{
    QUERY_BYTES_MAX, REPLY_BYTES_MAX, REPLY_PEERS_MAX, SCRAPE_MAX, TRACKER_ID_BYTES_MAX,
};
use super::udp::{emit_peers, parse_peers};
use super::{Announce, Announced, Error, Event, Reply, Scraped, Tracker, words};
use crate::base::Time;
use crate::swarm::bencode::{self, Dict, DictWriter, Form, ListWriter};
use crate::swarm::percent;

/// The query of a client, without `?`; `tracker_id` is what the tracker gave the last time.
#[must_use]
pub fn query(announce: &Announce, tracker_id: Option<&[u8]>) -> String {
    use std::fmt::Write as _;
    let mut query = format!(
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1&key={:08X}",
        percent::encode(&announce.info_hash),
        percent::encode(&announce.peer_id),
        announce.port,
        announce.uploaded,
        announce.downloaded,
        announce.left,
        announce.key,
    );
    let event = match announce.event {
        Event::None => None,
        Event::Completed => Some("completed"),
        Event::Started => Some("started"),
        Event::Stopped => Some("stopped"),
        Event::Paused => Some("paused"),
    };
    let mut put = |key, value: String| {
        write!(query, "&{key}={value}").expect("a string takes all that is written to it");
    };
    if let Some(event) = event {
        put("event", event.to_owned());
    }
    if let Some(wanted) = announce.peers_wanted {
        put("numwant", wanted.to_string());
    }
    if let Some(id) = tracker_id {
        put("trackerid", percent::encode(id));
    }
    query
}

/// A client's announcement, and the form in which it wants peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it says of itself.
    pub announce: Announce,
    /// Whether peers are wanted as dictionaries, as before BEP 23.
    pub verbose: bool,
    /// Whether their ids are to be left out then.
    pub without_ids: bool,
}

/// Reads the query of an announcement. What it claims its address to be is not believed.
///
/// # Errors
/// A sentence that says what is missing or wrong.
pub fn parse_query(query: &str) -> Result<Asked, &'static str> {
    let get = |key: &str| parameter(query, key);
    if query.len() > QUERY_BYTES_MAX {
        return Err("The query is too long");
    }
    let number = |key: &str| -> Option<u64> {
        let value = get(key)?;
        std::str::from_utf8(&value).ok()?.parse().ok()
    };
    let hash = |key: &str| <[u8; 20]>::try_from(get(key)?).ok();
    let event = match get("event").as_deref() {
        None | Some(b"" | b"empty") => Event::None,
        Some(b"completed") => Event::Completed,
        Some(b"started") => Event::Started,
        Some(b"stopped") => Event::Stopped,
        Some(b"paused") => Event::Paused,
        Some(_) => return Err("event is unknown"),
    };
    let port = number("port").and_then(|port| u16::try_from(port).ok());
    let key = get("key").and_then(|key| {
        let text = String::from_utf8(key).ok()?;
        u32::from_str_radix(&text, 16).ok()
    });
    let announce = Announce {
        info_hash: hash("info_hash").ok_or("info_hash must be 20 bytes")?,
        peer_id: hash("peer_id").ok_or("peer_id must be 20 bytes")?,
        port: port.ok_or("port must be a number up to 65535")?,
        uploaded: number("uploaded").unwrap_or(0),
        downloaded: number("downloaded").unwrap_or(0),
        left: number("left").ok_or("left must be a number")?,
        event,
        peers_wanted: number("numwant").map(|wanted| u32::try_from(wanted).unwrap_or(u32::MAX)),
        key: key.unwrap_or(0),
    };
    Ok(Asked {
        announce,
        verbose: number("compact") == Some(0),
        without_ids: number("no_peer_id") == Some(1),
    })
}

/// The torrents that a scrape asks for: none means all.
///
/// # Errors
/// A sentence, if a name is not 20 bytes or there are too many.
pub fn parse_scrape(query: &str) -> Result<Vec<[u8; 20]>, &'static str> {
    if query.len() > QUERY_BYTES_MAX {
        return Err("The query is too long");
    }
    let name = |(_, value): (&str, &str)| {
        let bytes = percent::decode(value.as_bytes())?;
        <[u8; 20]>::try_from(bytes).ok()
    };
    let names = parameters(query).filter(|(key, _)| *key == "info_hash");
    let names = names.map(name).collect::<Option<Vec<_>>>();
    let names = names.ok_or("info_hash must be 20 bytes")?;
    if names.len() > SCRAPE_MAX {
        return Err("Too many torrents in one scrape");
    }
    Ok(names)
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('='))
}

fn parameter(query: &str, key: &str) -> Option<Vec<u8>> {
    let (_, value) = parameters(query).find(|(name, _)| *name == key)?;
    percent::decode(value.as_bytes())
}

/// Answers the query of an announcement from `ip`: the body, whatever it says.
pub fn answer(tracker: &mut Tracker, ip: IpAddr, query: &str, now: Time) -> Vec<u8> {
    let asked = match parse_query(query) {
        Ok(asked) => asked,
        Err(why) => return refusal(why),
    };
    match tracker.announce(ip, &asked.announce, now) {
        Ok(announced) => emit_announced(announced, &asked),
        Err(refused) => refusal(&refused.to_string()),
    }
}

/// Answers the query of a scrape. Without names it tells of nothing: who knows no name is no peer.
pub fn answer_scrape(tracker: &mut Tracker, query: &str, now: Time) -> Vec<u8> {
    let names = match parse_scrape(query) {
        Ok(names) => names,
        Err(why) => return refusal(why),
    };
    let mut files = DictWriter::new();
    for name in names {
        if let Some(counts) = tracker.scrape(&name, now) {
            let mut file = DictWriter::new();
            file.int(b"complete", counts.complete.into())
                .int(b"downloaded", counts.downloaded.into())
                .int(b"downloaders", counts.downloaders.into())
                .int(b"incomplete", counts.incomplete.into());
            files.dict(&name, file);
        }
    }
    let mut reply = DictWriter::new();
    reply.dict(b"files", files);
    reply.finish()
}

fn refusal(why: &str) -> Vec<u8> {
    let mut reply = DictWriter::new();
    reply.bytes(b"failure reason", why.as_bytes());
    reply.finish()
}

fn emit_announced(announced: Announced, asked: &Asked) -> Vec<u8> {
    let Announced { peers, counts, .. } = announced.clone();
    let reply = Reply::from(announced);
    let mut writer = DictWriter::new();
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    writer
        .int(b"interval", seconds(reply.interval))
        .int(b"complete", counts.complete.into())
        .int(b"incomplete", counts.incomplete.into())
        .int(b"downloaders", counts.downloaders.into());
    if let Some(min) = reply.interval_min {
        writer.int(b"min interval", seconds(min));
    }
    if asked.verbose {
        let mut list = ListWriter::new();
        for (peer, id) in peers {
            let mut dict = DictWriter::new();
            dict.bytes(b"ip", peer.ip().to_string().as_bytes())
                .int(b"port", peer.port().into());
            if !asked.without_ids {
                dict.bytes(b"peer id", &id);
            }
            list.dict(dict);
        }
        writer.list(b"peers", list);
    } else {
        let (v6, v4): (Vec<_>, Vec<_>) = reply.peers.iter().partition(|peer| peer.is_ipv6());
        writer.bytes(b"peers", &emit_peers(&v4));
        if !v6.is_empty() {
            writer.bytes(b"peers6", &emit_peers(&v6));
        }
    }
    writer.finish()
}

impl Reply {
    /// Reads the body of an answer to an announcement.
    ///
    /// # Errors
    /// [`Error::Refused`] if the tracker refuses, [`Error::Malformed`] if it is no answer. Peers
    /// beyond [`REPLY_PEERS_MAX`], and single peers that are no addresses, are left out.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() > REPLY_BYTES_MAX {
            return Err(Error::Malformed);
        }
        let value = bencode::parse(body, Form::AnyOrder).map_err(|_| Error::Malformed)?;
        let dict = value.dict().ok_or(Error::Malformed)?;
        if let Some(reason) = dict.bytes(b"failure reason") {
            return Err(Error::Refused(words(reason)));
        }
        let seconds = |key: &[u8]| {
            let seconds = u64::try_from(dict.int(key)?).ok()?;
            Some(Duration::from_secs(seconds))
        };
        let tracker_id = dict.bytes(b"tracker id");
        Ok(Self {
            interval: seconds(b"interval").ok_or(Error::Malformed)?,
            interval_min: seconds(b"min interval"),
            complete: count(dict, b"complete"),
            incomplete: count(dict, b"incomplete"),
            tracker_id: tracker_id
                .filter(|id| id.len() <= TRACKER_ID_BYTES_MAX)
                .map(<[u8]>::to_vec),
            warning: dict.bytes(b"warning message").map(words),
            peers: peers(dict)?,
        })
    }
}

/// Reads the body of an answer to a scrape: each torrent with its counts.
///
/// # Errors
/// As [`Reply::parse`].
pub fn parse_scraped(body: &[u8]) -> Result<Vec<([u8; 20], Scraped)>, Error> {
    if body.len() > REPLY_BYTES_MAX {
        return Err(Error::Malformed);
    }
    let value = bencode::parse(body, Form::AnyOrder).map_err(|_| Error::Malformed)?;
    let dict = value.dict().ok_or(Error::Malformed)?;
    if let Some(reason) = dict.bytes(b"failure reason") {
        return Err(Error::Refused(words(reason)));
    }
    let files = dict.dict(b"files").ok_or(Error::Malformed)?;
    let file = |(name, counts): (&[u8], &bencode::Value<'_>)| {
        let counts = counts.dict()?;
        let count = |key: &[u8]| count(counts, key).unwrap_or(0);
        let scraped = Scraped {
            complete: count(b"complete"),
            incomplete: count(b"incomplete"),
            downloaded: count(b"downloaded"),
            downloaders: count(b"downloaders"),
        };
        Some((<[u8; 20]>::try_from(name).ok()?, scraped))
    };
    files
        .iter()
        .map(file)
        .collect::<Option<_>>()
        .ok_or(Error::Malformed)
}

fn count(dict: &Dict<'_>, key: &[u8]) -> Option<u32> {
    u32::try_from(dict.int(key)?).ok()
}

fn peers(dict: &Dict<'_>) -> Result<Vec<SocketAddr>, Error> {
    let mut peers = match dict.get(b"peers") {
        None => Vec::new(),
        Some(value) => match (value.bytes(), value.list()) {
            (Some(compact), _) => parse_peers(compact, false).ok_or(Error::Malformed)?,
            (None, Some(list)) => list.iter().filter_map(verbose_peer).collect(),
            (None, None) => return Err(Error::Malformed),
        },
    };
    if let Some(compact) = dict.bytes(b"peers6") {
        peers.extend(parse_peers(compact, true).ok_or(Error::Malformed)?);
    }
    peers.truncate(REPLY_PEERS_MAX);
    Ok(peers)
}

fn verbose_peer(value: &bencode::Value<'_>) -> Option<SocketAddr> {
    let dict = value.dict()?;
    let ip: IpAddr = dict.text(b"ip")?.parse().ok()?;
    let port = u16::try_from(dict.int(b"port")?).ok()?;
    (port != 0).then_some(SocketAddr::new(ip, port))
}

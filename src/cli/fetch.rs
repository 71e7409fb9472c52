//! `flashover fetch`, and the options that it shares with `seed`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Global;
use super::error::Result;
use super::output::OutputArgs;
use crate::base::event::Events;
use crate::base::units::{format_bytes, format_duration, parse_duration, parse_rate};
use crate::deploy::Interrupt;
use crate::deploy::net::Ways;
use crate::deploy::torrent::{self, Fetch, Options, Report, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The torrent, an http URL of one, or a magnet link
    #[arg(value_name = "FILE.torrent|URL|MAGNET", value_parser = parse_source)]
    source: Source,
    /// The file or directory to write, or a directory that is there, to put it into
    #[arg(long, value_name = "PATH")]
    into: PathBuf,
    /// Replace a file that is there, or a directory with all that is in it
    #[arg(long)]
    replace: bool,
    /// A web seed besides those of the torrent: an http URL; may be given again
    #[arg(long = "web-seed", value_name = "URL")]
    web_seeds: Vec<String>,
    /// Ask no web seed
    #[arg(long, conflicts_with = "web_seeds")]
    no_web_seeds: bool,
    /// Seed on for this time at most, while peers that are connected lack anything
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    seed_time: Duration,
    /// Give up after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
    #[command(flatten)]
    swarm: SwarmArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How a torrent's peers are found and treated.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Swarm")]
pub(super) struct SwarmArgs {
    /// Where peers may connect: an address, a port or both
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "6881", value_parser = parse_listen)]
    listen: SocketAddr,
    /// A peer to connect to; may be given again
    #[arg(long = "peer", value_name = "ADDRESS:PORT")]
    peers: Vec<SocketAddr>,
    /// A tracker besides those of the torrent, http or udp; may be given again
    #[arg(long = "tracker", value_name = "URL")]
    trackers: Vec<String>,
    /// Ask no tracker
    #[arg(long, conflicts_with = "trackers")]
    no_trackers: bool,
    /// Look for peers on this network even if the torrent is private, or a link with trackers
    #[arg(long)]
    lsd: bool,
    /// Do not look for peers on this network
    #[arg(long, conflicts_with = "lsd")]
    no_lsd: bool,
    /// Send no more than this per second, as 100mbit or 10mb
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    up_max: Option<u64>,
    /// Fetch no more than this per second
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    down_max: Option<u64>,
    /// How the kernel may be asked to move bytes; see `flashover doctor --engine`
    #[arg(long, value_name = "WAYS", default_value_t, hide_default_value = true)]
    engine: Ways,
}

impl SwarmArgs {
    pub(super) fn to_options(&self, events: Events, interrupt: Interrupt) -> Options {
        Options {
            listen: self.listen,
            peers: self.peers.clone(),
            trackers: !self.no_trackers,
            more_trackers: self.trackers.clone(),
            lsd: (self.lsd || self.no_lsd).then_some(self.lsd),
            web_seeds: false,
            more_web_seeds: Vec::new(),
            up_max: self.up_max,
            down_max: self.down_max,
            ways: self.engine,
            events,
            interrupt,
        }
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let options = args
        .swarm
        .to_options(args.output.events(global), Interrupt::listen()?);
    let config = Fetch {
        source: args.source.clone(),
        into: args.into.clone(),
        replace: args.replace,
        seed_time: args.seed_time,
        deadline: args.deadline,
        options: Options {
            web_seeds: !args.no_web_seeds,
            more_web_seeds: args.web_seeds.clone(),
            ..options
        },
    };
    let report = torrent::fetch(&config).map_err(|error| args.output.failed(error.into()))?;
    args.output
        .result("report", &report, || text("fetched", &report));
    Ok(())
}

/// A report for people.
pub(super) fn text(what: &str, report: &Report) -> String {
    let seconds = report.seconds.max(1e-3);
    let mut text = format!(
        "{} {what} in {}: {} from peers, {} to peers",
        report.path.display(),
        format_duration(Duration::from_secs_f64(seconds)),
        format_bytes(report.bytes_in),
        format_bytes(report.bytes_out),
    );
    if report.bytes_webseed > 0 {
        text += &format!(", {} from web seeds", format_bytes(report.bytes_webseed));
    }
    if report.bytes_resumed > 0 && what == "fetched" {
        text += &format!(", {} were here", format_bytes(report.bytes_resumed));
    }
    if report.peers_banned > 0 {
        text += &format!("; {} peers banned for wrong bytes", report.peers_banned);
    }
    text
}

fn parse_source(text: &str) -> Result<Source, String> {
    let begins = |scheme: &str| {
        let head = text.get(..scheme.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    };
    if begins("http://") {
        let url = text.parse().map_err(|error| format!("{error}"))?;
        return Ok(Source::Url(Box::new(url)));
    }
    if begins("https://") {
        return Err("https is not spoken: save the torrent by other means first".to_owned());
    }
    if begins("magnet:") {
        let link = text.parse().map_err(|error| format!("{error}"))?;
        return Ok(Source::Magnet(Box::new(link)));
    }
    Ok(Source::File(text.into()))
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(any, port));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 6881));
    }
    text.parse()
        .map_err(|_| "give ADDRESS, PORT or ADDRESS:PORT".to_owned())
}

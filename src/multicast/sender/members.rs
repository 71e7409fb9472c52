//! The receivers that a sender knows. A receiver exists by its first authentic report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::event::Lag;
use crate::base::{Bitmap, NodeId, Time};
use crate::multicast::keys::Key;
use crate::multicast::limits::{DEMOTE_AFTER, RECEIVERS_MAX};
use crate::multicast::replay::ReplayWindow;
use crate::multicast::wire::report::{REPORT_HEADER_SIZE, Report, ReportHeader};

/// All receivers, by id; those that went are remembered, so that their old reports stay old.
pub(super) struct Members<K> {
    by_id: BTreeMap<NodeId, Member<K>>,
    /// What each receiver that the window waits for has acknowledged, the furthest behind first.
    pub(super) waited_for: BTreeSet<(u64, NodeId)>,
}

/// One receiver.
pub(super) struct Member<K> {
    key: K,
    replay: ReplayWindow,
    pub(super) standing: Standing,
    pub(super) from: SocketAddr,
    pub(super) host: String,
    pub(super) last_seen: Time,
    /// When `ack` last grew.
    pub(super) advanced_at: Time,
    /// The highest counter that it has seen, plus 1.
    pub(super) ack: u64,
    /// The window waits for it: its `(ack, id)` is in `waited_for`.
    pub(super) is_waited_for: bool,
    /// How long it held the window of late.
    pub(super) held: Duration,
    /// The pieces that it lacks.
    pub(super) wants: Bitmap,
    pub(super) pieces_done: u32,
    pub(super) dropped: u32,
    pub(super) buffer_kib: u32,
    /// Moving averages of the shares of datagrams lost, of datagrams dropped by its own kernel, and
    /// of pieces skipped for want of memory.
    pub(super) loss: f64,
    drop_share: f64,
    skip_share: f64,
    skipped: u32,
    /// Since the mark: datagrams that were to come, and that came.
    expected: u64,
    received: u64,
    watch: Watch,
    /// It was demoted once and is served again; since when, and with how many pieces.
    pub(super) second_chance: Option<(Time, u32)>,
    /// The last other machine that reported under its id.
    twin: Option<IpAddr>,
}

/// What became of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is served.
    Active,
    /// It is served when no active one lacks anything.
    Demoted,
    /// It has everything.
    Done,
    /// It left or fell silent.
    Gone,
    /// It makes no progress even alone.
    GivenUp,
}

/// What a receiver did since a moment, to see whether it follows.
#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Time,
    pieces_done: u32,
    skipped: u32,
    /// The least loss since then.
    loss_min: f64,
}

/// Why a report was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Forged,
    Replayed,
    Malformed,
    /// There are too many receivers.
    Full,
    /// Another machine that is being served has this id; whether that is news.
    Twin(bool),
}

impl<K: Key> Members<K> {
    pub(super) const fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            waited_for: BTreeSet::new(),
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Member<K>> {
        self.by_id.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Member<K>> {
        self.by_id.get_mut(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Member<K>)> {
        self.by_id.iter().map(|(&node, member)| (node, member))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Member<K>)> {
        self.by_id.iter_mut().map(|(&node, member)| (node, member))
    }

    pub(super) fn active(&self) -> impl Iterator<Item = (NodeId, &Member<K>)> {
        self.iter()
            .filter(|(_, member)| member.standing == Standing::Active)
    }

    /// Opens a report. Its sender becomes known when it is authentic and there is room.
    ///
    /// Who is served is known by its address too. Counters of two machines with one id would look
    /// like replays of each other, so a second one is told apart before anything else.
    pub(super) fn open(
        &mut self,
        header: &ReportHeader,
        datagram: &mut [u8],
        from: SocketAddr,
        derive: impl FnOnce() -> K,
    ) -> Result<Report, Refused> {
        let (clear, sealed) = datagram
            .split_at_mut_checked(REPORT_HEADER_SIZE)
            .ok_or(Refused::Malformed)?;
        let (node, counter) = (header.node, header.counter);
        if let Some(member) = self.by_id.get_mut(&node) {
            if member.is_served() && member.from.ip() != from.ip() {
                let authentic = member.key.open(counter, clear, sealed).is_some();
                let is_news = authentic && member.twin.replace(from.ip()) != Some(from.ip());
                return Err(if authentic {
                    Refused::Twin(is_news)
                } else {
                    Refused::Forged
                });
            }
            if !member.replay.is_fresh(counter) {
                return Err(Refused::Replayed);
            }
            let body = member
                .key
                .open(counter, clear, sealed)
                .ok_or(Refused::Forged)?;
            member.replay.insert(counter);
            return Report::parse(body).map_err(|_| Refused::Malformed);
        }
        let key = derive();
        let body = key.open(counter, clear, sealed).ok_or(Refused::Forged)?;
        let report = Report::parse(body).map_err(|_| Refused::Malformed)?;
        self.make_room()?;
        let mut member = Member::new(key, from);
        member.replay.insert(counter);
        self.by_id.insert(node, member);
        Ok(report)
    }

    /// Keeps the list bounded: the first that is gone or done is forgotten.
    fn make_room(&mut self) -> Result<(), Refused> {
        if self.by_id.len() < RECEIVERS_MAX {
            return Ok(());
        }
        let is_over =
            |member: &Member<K>| matches!(member.standing, Standing::Gone | Standing::Done);
        let over = self.by_id.iter().find(|(_, member)| is_over(member));
        let node = over.map(|(&node, _)| node).ok_or(Refused::Full)?;
        self.by_id.remove(&node);
        Ok(())
    }

    /// Has the window wait for a receiver, or not.
    pub(super) fn wait_for(&mut self, node: NodeId, wait: bool) {
        if let Some(member) = self.by_id.get_mut(&node) {
            self.waited_for.remove(&(member.ack, node));
            if wait {
                self.waited_for.insert((member.ack, node));
            }
            member.is_waited_for = wait;
        }
    }

    /// Notes what a receiver has acknowledged; tells whether that is news.
    pub(super) fn advance(&mut self, node: NodeId, ack: u64, now: Time) -> bool {
        let Some(member) = self.by_id.get_mut(&node) else {
            return false;
        };
        if ack <= member.ack {
            return false;
        }
        if member.is_waited_for {
            self.waited_for.remove(&(member.ack, node));
            self.waited_for.insert((ack, node));
        }
        (member.ack, member.advanced_at) = (ack, now);
        true
    }

    /// The losses of those that are served and hear the sender, ascending.
    pub(super) fn losses(&self) -> Vec<f64> {
        sorted(self.hearing().map(|member| member.loss))
    }

    /// Begins to count anew what they lose.
    pub(super) fn mark(&mut self) {
        for (_, member) in self.iter_mut() {
            (member.expected, member.received) = (0, 0);
        }
    }

    /// What they lost since the mark, ascending; the moving average of who told too little since.
    pub(super) fn losses_since_mark(&self) -> Vec<f64> {
        sorted(self.hearing().map(Member::loss_since_mark))
    }

    /// Who has heard nothing has lost nothing either: nothing may reach it.
    fn hearing(&self) -> impl Iterator<Item = &Member<K>> {
        let hears = |member: &&Member<K>| member.ack > 0;
        self.active().map(|(_, member)| member).filter(hears)
    }

    /// What those that are served drop themselves, of datagrams or of pieces, ascending.
    pub(super) fn drop_shares(&self) -> Vec<f64> {
        sorted(
            self.active()
                .map(|(_, member)| member.drop_share.max(member.skip_share)),
        )
    }

    /// Those that do not follow the others, judged over [`DEMOTE_AFTER`].
    pub(super) fn laggards(&mut self, now: Time) -> Vec<(NodeId, Lag)> {
        let due = |member: &Member<K>| {
            member.standing == Standing::Active && now >= member.watch.since + DEMOTE_AFTER
        };
        if !self.iter().any(|(_, member)| due(member)) {
            return Vec::new();
        }
        let losses = self.losses();
        let shares = sorted(self.active().filter_map(|(_, member)| member.share_kept()));
        let loss_max = (2.0 * quantile(&losses, 0.5) + 0.1).max(LOSS_ALLOWED);
        let share_min = if shares.len() >= 2 {
            shares[shares.len() / 2] / 4.0
        } else {
            0.0
        };
        let mut laggards = Vec::new();
        for (&node, member) in self.by_id.iter_mut().filter(|(_, member)| due(member)) {
            if losses.len() >= 2 && member.watch.loss_min > loss_max {
                laggards.push((node, Lag::Loss));
            } else if member.share_kept().is_some_and(|share| share < share_min) {
                laggards.push((node, Lag::Pieces));
            }
            member.restart_watch(now);
        }
        laggards
    }
}

impl<K: Key> Member<K> {
    fn new(key: K, from: SocketAddr) -> Self {
        Self {
            key,
            replay: ReplayWindow::with_size(64),
            standing: Standing::Gone,
            from,
            host: String::new(),
            last_seen: Time::ZERO,
            advanced_at: Time::ZERO,
            ack: 0,
            is_waited_for: false,
            held: Duration::ZERO,
            wants: Bitmap::default(),
            pieces_done: 0,
            dropped: 0,
            buffer_kib: 0,
            loss: 0.0,
            drop_share: 0.0,
            skip_share: 0.0,
            skipped: 0,
            expected: 0,
            received: 0,
            watch: Watch {
                since: Time::ZERO,
                pieces_done: 0,
                skipped: 0,
                loss_min: 1.0,
            },
            second_chance: None,
            twin: None,
        }
    }

    const fn is_served(&self) -> bool {
        matches!(self.standing, Standing::Active | Standing::Demoted)
    }

    /// Takes the figures of a report.
    pub(super) fn update(&mut self, report: &Report, from: SocketAddr, now: Time) {
        self.from = from;
        if self.host != report.host {
            self.host.clone_from(&report.host);
        }
        self.last_seen = now;
        let dropped = report.dropped.saturating_sub(self.dropped);
        if report.expected > 0 {
            let expected = f64::from(report.expected);
            let weight = AVERAGE_WEIGHT * (expected / AVERAGE_FULL_PACKETS).min(1.0);
            let lost = f64::from(report.expected.saturating_sub(report.received)) / expected;
            let dropped = (f64::from(dropped) / expected).min(1.0);
            self.loss += weight * (lost - self.loss);
            self.expected += u64::from(report.expected);
            self.received += u64::from(report.received);
            self.drop_share += weight * (dropped - self.drop_share);
        }
        let kept = report.pieces_done.saturating_sub(self.pieces_done);
        let skipped = report.pieces_skipped.saturating_sub(self.skipped);
        if kept + skipped > 0 {
            let pieces = f64::from(kept + skipped);
            let weight = AVERAGE_WEIGHT * (pieces / AVERAGE_FULL_PIECES).min(1.0);
            self.skip_share += weight * (f64::from(skipped) / pieces - self.skip_share);
        }
        self.dropped = report.dropped;
        self.pieces_done = report.pieces_done;
        self.skipped = report.pieces_skipped;
        self.buffer_kib = report.buffer_kib;
        self.watch.loss_min = self.watch.loss_min.min(self.loss);
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of far fewer than 2^53")]
    fn loss_since_mark(&self) -> f64 {
        if self.expected < MARK_PACKETS_MIN {
            return self.loss;
        }
        1.0 - self.received.min(self.expected) as f64 / self.expected as f64
    }

    /// Starts to look anew at how it follows.
    pub(super) const fn restart_watch(&mut self, now: Time) {
        self.watch = Watch {
            since: now,
            pieces_done: self.pieces_done,
            skipped: self.skipped,
            loss_min: self.loss,
        };
    }

    /// Of the pieces that came by, the share that it kept; `None` if too few came by.
    fn share_kept(&self) -> Option<f64> {
        let kept = self.pieces_done.saturating_sub(self.watch.pieces_done);
        let skipped = self.skipped.saturating_sub(self.watch.skipped);
        (kept + skipped >= PIECES_JUDGED_MIN).then(|| f64::from(kept) / f64::from(kept + skipped))
    }
}

/// The value that a share `q` of the sorted values does not exceed, rounded down; 0 if there is
/// none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list that fits memory"
)]
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * q) as usize)
        .copied()
        .unwrap_or(0.0)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The weight of a report in the moving averages, if it speaks for enough datagrams.
const AVERAGE_WEIGHT: f64 = 0.25;
/// How many datagrams are enough.
const AVERAGE_FULL_PACKETS: f64 = 400.0;
/// So few datagrams since the mark tell less than the moving average.
const MARK_PACKETS_MIN: u64 = 100;
/// How many pieces are enough.
const AVERAGE_FULL_PIECES: f64 = 4.0;
/// The loss for which nobody is demoted.
const LOSS_ALLOWED: f64 = 0.2;
/// How many pieces must have come by before a receiver is judged.
const PIECES_JUDGED_MIN: u32 = 8;

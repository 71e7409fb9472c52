//! What a sender does every [`TICK`](crate::multicast::limits::TICK): looks at its receivers, drops
//! and demotes, adapts, and tells how it goes.

use super::event::{Event, Gone, NodeProgress, Progress};
use super::members::{Member, Standing, quantile};
use super::pace::Seen;
use super::{Duration, PROGRESS_INTERVAL, Phase, Sender, Wishes};
use crate::base::{Counter, NodeId, Time};
use crate::fec::Code;
use crate::image::verify::Verify;
use crate::multicast::keys::Cipher;
use crate::multicast::limits::{
    ACK_BY_VOLUME_RECEIVERS_MAX, BACKOFF_MAX, BACKOFF_MIN, CONTROL_QUIET, DEMOTED_NAMED_MAX,
    GATHER_MAX, NO_PROGRESS_MAX, RECEIVER_SILENCE_MAX, REPORT_INTERVAL_MAX, REPORT_INTERVAL_MIN,
    REPORT_INTERVAL_PER_RECEIVER, WINDOW_BYTES_MIN,
};

impl<C: Code, X: Cipher, V: Verify> Sender<C, X, V> {
    pub(super) fn tick(&mut self, now: Time) {
        self.drop_silent(now);
        self.demote_laggards(now);
        let loss = self.members.losses();
        let drops = self.members.drop_shares();
        self.loss = quantile(&loss, QUANTILE);
        self.demand.set_loss(self.loss);
        let is_none = [&loss, &drops]
            .iter()
            .all(|shares| shares.last().is_some_and(|&most| most < LOSS_TRACE));
        self.lanes.set_loss(self.loss, is_none);
        let drop_share = quantile(&drops, QUANTILE);
        let interval = self.wishes.interval;
        let seen = Seen {
            loss: self.loss,
            loss_since_mark: quantile(&self.members.losses_since_mark(), QUANTILE),
            drop_share,
            is_partial: self.members.active().count() > loss.len(),
        };
        let is_lowered = self.pace.tick(seen, interval, now);
        if self.pace.marks(now) {
            self.members.mark();
        }
        self.count(Counter::RateLowered, u64::from(is_lowered));
        self.flow.tick(&mut self.members);
        self.tune();
        self.rest_if_idle(now);
        self.nudge(now);
        if now >= self.progress_at || is_lowered {
            self.progress_at = now + PROGRESS_INTERVAL;
            let progress = self.progress(quantile(&loss, 0.5), now);
            self.raise(Event::Progress(progress));
        }
    }

    /// Fits window and wishes to the number of receivers and the size of their buffers.
    pub(super) fn tune(&mut self) {
        let count = self.members.active().count();
        let receivers = u32::try_from(count).unwrap_or(u32::MAX);
        let interval = (REPORT_INTERVAL_PER_RECEIVER * receivers)
            .clamp(REPORT_INTERVAL_MIN, REPORT_INTERVAL_MAX);
        let backoff = if receivers <= 1 {
            BACKOFF_MIN
        } else {
            (REPORT_INTERVAL_PER_RECEIVER * receivers / 4).clamp(BACKOFF_MIN * 2, BACKOFF_MAX)
        };
        let buffers = self.members.active().map(|(_, member)| member.buffer_kib);
        let buffer_kib = buffers.filter(|&kib| kib > 0).min().unwrap_or(u32::MAX);
        let buffer_bytes = u64::from(buffer_kib) * 1024 / 4 * 3;
        let mut window = self.window_bytes.min(buffer_bytes).max(WINDOW_BYTES_MIN);
        let acks_by_volume = count <= ACK_BY_VOLUME_RECEIVERS_MAX;
        if !acks_by_volume {
            window = window.max(twice(self.pace.measured() * interval.as_secs_f64()));
        }
        let size = u64::try_from(self.datagram_size()).unwrap_or(u64::MAX);
        self.flow.window = (window / size).max(1);
        self.wishes = Wishes {
            receivers,
            interval,
            backoff,
            gather: if receivers <= 1 {
                std::time::Duration::ZERO
            } else {
                backoff.min(GATHER_MAX)
            },
            ack_packets: if acks_by_volume {
                u32::try_from(self.flow.window / ACKS_PER_WINDOW)
                    .unwrap_or(u32::MAX)
                    .max(1)
            } else {
                0
            },
        };
    }

    /// The first bytes of the ids of some of those that are not waited for any more.
    pub(super) fn demoted_ids(&self) -> Vec<[u8; 8]> {
        let is_out = |standing| matches!(standing, Standing::Demoted | Standing::GivenUp);
        let out = self
            .members
            .iter()
            .filter(|(_, member)| is_out(member.standing));
        let id = |node: NodeId| node.0.first_chunk().copied();
        out.filter_map(|(node, _)| id(node))
            .take(DEMOTED_NAMED_MAX)
            .collect()
    }

    fn drop_silent(&mut self, now: Time) {
        let silence_max = RECEIVER_SILENCE_MAX.max(self.wishes.interval * 4);
        let is_served = |standing| matches!(standing, Standing::Active | Standing::Demoted);
        let silent = self.nodes(|_, member| {
            is_served(member.standing) && now.since(member.last_seen) > silence_max
        });
        for node in silent {
            self.end_service(node, Standing::Gone, Some(Gone::Silent), now);
        }
        let stuck = self.nodes(|_, member| {
            member.standing == Standing::Active
                && member.second_chance.is_some_and(|(since, pieces_done)| {
                    member.pieces_done == pieces_done && now.since(since) > NO_PROGRESS_MAX
                })
        });
        for node in stuck {
            self.end_service(node, Standing::GivenUp, Some(Gone::NoProgress), now);
        }
    }

    fn demote_laggards(&mut self, now: Time) {
        for (node, cause) in self.members.laggards(now) {
            let Some(member) = self.members.get_mut(node) else {
                continue;
            };
            member.standing = Standing::Demoted;
            self.demand.exclude(&member.wants);
            let host = member.host.clone();
            self.members.wait_for(node, false);
            self.raise(Event::Demoted { node, host, cause });
            self.control_is_due = true;
        }
        for (_, member) in self.members.iter_mut() {
            if let Some((since, pieces_done)) = &mut member.second_chance
                && member.pieces_done > *pieces_done
            {
                (*since, *pieces_done) = (now, member.pieces_done);
            }
        }
    }

    /// When pieces are lacked of which nothing is asked: what their receivers told came while they
    /// were being sent, and what was sent was lost. A few symbols of each make them tell it again
    /// at once, or are all that they need; in a large group their next report is far off. Who does
    /// not hear is not reached by that either, and has its pieces from others, whom it would slow.
    fn nudge(&mut self, now: Time) {
        let is_waiting = self.phase == Phase::Busy && self.lanes.is_idle();
        let nudge_at = self.last_data + self.wishes.backoff + CONTROL_QUIET;
        if !is_waiting || now < nudge_at || self.demand.wants_any() {
            return;
        }
        let lately = HEARD_LATELY.max(self.wishes.interval * 2);
        for (_, member) in self.members.active() {
            if member.ack > 0 && now < member.advanced_at + lately {
                self.demand.nudge(&member.wants, now);
            }
        }
    }

    /// When nobody active lacks anything: serves those that were demoted, or else is idle.
    fn rest_if_idle(&mut self, now: Time) {
        if self.phase != Phase::Busy || self.demand.lacking() > 0 || !self.lanes.is_idle() {
            return;
        }
        let demoted = self.nodes(|_, member| member.standing == Standing::Demoted);
        for &node in &demoted {
            let Some(member) = self.members.get_mut(node) else {
                continue;
            };
            member.standing = Standing::Active;
            member.second_chance = Some((now, member.pieces_done));
            member.restart_watch(now);
            self.demand.include(&member.wants);
            let host = member.host.clone();
            self.raise(Event::Readmitted { node, host });
            self.flow.wait_again(&mut self.members, node, self.counter);
        }
        let anybody_came = self.members.iter().next().is_some();
        let anybody_unsure = self.members.active().count() > 0;
        if demoted.is_empty() && anybody_came && !anybody_unsure {
            self.phase = Phase::Idle;
            self.raise(Event::Idle);
        }
    }

    fn nodes(&self, fits: impl Fn(NodeId, &super::members::Member<X::Key>) -> bool) -> Vec<NodeId> {
        let fitting = self
            .members
            .iter()
            .filter(|(node, member)| fits(*node, member));
        fitting.map(|(node, _)| node).collect()
    }

    fn progress(&self, loss_median: f64, now: Time) -> Progress {
        let shown = |standing| !matches!(standing, Standing::Gone | Standing::GivenUp);
        let shown = self
            .members
            .iter()
            .filter(|(_, member)| shown(member.standing));
        let nodes = shown.map(|(node, member)| NodeProgress {
            node,
            host: member.host.clone(),
            from: member.from,
            pieces_done: member.pieces_done,
            pieces_missing: u32::try_from(member.wants.count()).unwrap_or(u32::MAX),
            loss: member.loss,
            dropped: member.dropped,
            is_demoted: member.standing == Standing::Demoted,
        });
        let hears = |member: &Member<X::Key>| {
            let is_served = matches!(member.standing, Standing::Active | Standing::Done);
            is_served && member.ack > 0 && now.since(member.advanced_at) < HEARD_LATELY
        };
        let receiving = self.members.iter().filter(|(_, member)| hears(member));
        Progress {
            bytes_sent: self.pace.bytes_sent(),
            rate_bytes_per_s: rounded(self.pace.measured()),
            rate_bytes_per_s_adapted: self.pace.adapted(),
            arrives_bytes_per_s: rounded(self.pace.arrives()),
            is_held_back: self.pace.is_held_back(),
            loss_median,
            loss_quantile: self.loss,
            position: self.demand.position(),
            pieces_lacking: self.demand.lacking(),
            receiving: u32::try_from(receiving.count()).unwrap_or(u32::MAX),
            nodes: nodes.collect(),
        }
    }
}

fn twice(bytes: f64) -> u64 {
    rounded(2.0 * bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below 2^63"
)]
const fn rounded(rate: f64) -> u64 {
    rate as u64
}

/// Who has heard nothing new for this long receives nothing.
const HEARD_LATELY: Duration = Duration::from_secs(2);
/// The share of receivers that policy looks at.
const QUANTILE: f64 = 0.9;
/// Loss below which nobody is said to lose anything.
const LOSS_TRACE: f64 = 0.00001;
/// How often in a window's worth of datagrams small groups acknowledge.
const ACKS_PER_WINDOW: u64 = 8;

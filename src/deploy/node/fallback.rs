//! When others help out: the policy, without clocks or sockets.
//!
//! Multicast comes first. The swarm, or ranges, help while it brings nothing, and pause as soon as
//! it does again; so a node behind a filter finishes, and a thousand healthy nodes cost the head
//! nothing.

use std::fmt;
use std::time::Duration;

use crate::base::Time;

/// Without a new piece and without traffic for this long, multicast counts as silent.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Who hears nothing for this long after it joined does not count on multicast yet.
const UNHEARD_MAX: Duration = Duration::from_millis(300);
/// With traffic but without a new piece for this long, multicast counts as stuck.
const STUCK_MAX: Duration = Duration::from_secs(10);
/// A node that is served last helps itself after this long without a new piece.
const DEMOTED_QUIET_MAX: Duration = Duration::from_millis(500);
/// Datagrams in a second that count as traffic: more than control datagrams alone.
const TRAFFIC_DATAGRAMS_MIN: u64 = 64;

/// Why ranges are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The head does not multicast this bundle.
    NotOffered,
    /// This machine cannot listen to the group.
    CannotListen(String),
    /// Another machine has this node's id.
    IdTaken(String),
    /// Nothing has come so far.
    Unheard,
    /// Nothing has ever come.
    Filtered,
    /// It came, and stopped.
    Silent,
    /// It stopped, and came again when the group was joined again.
    Renewed,
    /// Of what is sent only the small datagrams come.
    TooLarge,
    /// The head has put this node last.
    Demoted,
    /// Datagrams come, but no piece is completed.
    Stuck,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NotOffered => "the head does not multicast this image",
            Self::CannotListen(why) => return write!(f, "multicast cannot be received: {why}"),
            Self::IdTaken(why) => return write!(f, "the head refused this node's id: {why}"),
            Self::Unheard => "nothing was heard of the multicast while others brought all pieces",
            Self::Filtered => {
                "no multicast reaches this node (filtered? IGMP snooping without a querier, \
                 a firewall, or another network)"
            }
            Self::Silent => {
                "multicast has stopped reaching this node (IGMP membership lost, or the head is gone)"
            }
            Self::Renewed => {
                "multicast had stopped until the group was joined again (IGMP membership lost: a \
                 switch forgets who is never asked; see --igmp-querier)"
            }
            Self::TooLarge => {
                "only the small datagrams of the multicast reach this node (an MTU on the way is too \
                 small for --symbol-size)"
            }
            Self::Demoted => "this node cannot follow the multicast (slow disk or lossy link)",
            Self::Stuck => "multicast reaches this node but completes no piece (heavy loss)",
        };
        f.write_str(text)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fallback {
    /// Why there can be no multicast now, when that is known.
    down: Option<Cause>,
    /// The last new piece by multicast, or the moment from which one can be expected.
    piece_at: Time,
    /// The last second with traffic, or the moment from which some can be expected.
    traffic_at: Time,
    ever_heard: bool,
    /// Nearly all datagrams of the last second were lost.
    is_starved: bool,
    is_demoted: bool,
}

impl Fallback {
    /// Starts at `now`, before anything was joined.
    pub(super) const fn new(now: Time) -> Self {
        Self {
            down: None,
            piece_at: now,
            traffic_at: now,
            ever_heard: false,
            is_starved: false,
            is_demoted: false,
        }
    }

    /// A session was joined: from now on multicast can be expected.
    pub(super) fn joined(&mut self, now: Time) {
        self.down = None;
        (self.piece_at, self.traffic_at) = (now, now);
        (self.ever_heard, self.is_starved, self.is_demoted) = (false, false, false);
    }

    /// The sender ended the session: another may follow, and is waited for.
    pub(super) const fn closed(&mut self, now: Time) {
        (self.piece_at, self.traffic_at) = (now, now);
        self.is_starved = false;
    }

    /// There can be no multicast now.
    pub(super) fn down(&mut self, cause: Cause) {
        self.down = Some(cause);
    }

    /// A piece came by multicast.
    pub(super) const fn piece(&mut self, now: Time) {
        self.ever_heard = true;
        (self.piece_at, self.traffic_at) = (now, now);
    }

    /// So many authentic datagrams came in the last second, and so many were lost.
    pub(super) const fn datagrams(&mut self, count: u64, lost: u64, now: Time) {
        self.ever_heard |= count > 0;
        self.is_starved = count > 0 && lost >= TRAFFIC_DATAGRAMS_MIN && lost / 16 > count;
        if count >= TRAFFIC_DATAGRAMS_MIN {
            self.traffic_at = now;
        }
    }

    /// Something came of the group.
    pub(super) const fn alive(&mut self) {
        self.ever_heard = true;
    }

    /// Whether nothing came though something should have: too early to say why.
    pub(super) fn is_unheard(&self, now: Time) -> bool {
        !self.ever_heard && now.since(self.traffic_at) >= UNHEARD_MAX
    }

    /// The head has put this node last.
    pub(super) const fn demoted(&mut self) {
        self.is_demoted = true;
    }

    /// Whether multicast brought something lately.
    pub(super) fn flows(&self, now: Time) -> bool {
        self.cause(now).is_none()
    }

    /// Why ranges are to be fetched now, if they are.
    pub(super) fn cause(&self, now: Time) -> Option<Cause> {
        if self.down.is_some() {
            return self.down.clone();
        }
        let without_piece = now.since(self.piece_at);
        let without_traffic = now.since(self.traffic_at);
        let is_patient = !self.is_demoted || without_piece < DEMOTED_QUIET_MAX;
        if without_piece < QUIET_MAX && is_patient {
            None
        } else if !self.ever_heard {
            Some(Cause::Filtered)
        } else if self.is_demoted {
            Some(Cause::Demoted)
        } else if self.is_starved {
            Some(Cause::TooLarge)
        } else if without_traffic >= QUIET_MAX {
            Some(Cause::Silent)
        } else {
            (without_piece >= STUCK_MAX).then_some(Cause::Stuck)
        }
    }
}

/// Waits that double, up to a bound: between attempts to reach a head.
#[derive(Debug)]
pub(super) struct Backoff {
    step: Duration,
    ready_at: Time,
}

/// The first wait.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self {
            step: BACKOFF_MIN,
            ready_at: Time::ZERO,
        }
    }

    /// Whether the next attempt may start.
    pub(super) fn is_ready(&self, now: Time) -> bool {
        now >= self.ready_at
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, now: Time) {
        self.ready_at = now + self.step;
        self.step = (self.step * 2).min(BACKOFF_MAX);
    }

    /// The next attempt may start after `pause`; earlier failures are kept in mind.
    pub(super) fn pause(&mut self, now: Time, pause: Duration) {
        self.ready_at = now + pause;
    }

    /// An attempt succeeded.
    pub(super) const fn succeeded(&mut self) {
        self.step = BACKOFF_MIN;
        self.ready_at = Time::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn silence_from_the_start_is_a_filter_and_ends_with_the_first_piece() {
        let mut fallback = Fallback::new(at(0));
        fallback.joined(at(1000));
        assert_eq!(fallback.cause(at(2999)), None);
        assert_eq!(fallback.cause(at(3000)), Some(Cause::Filtered));
        fallback.piece(at(3500));
        assert!(fallback.flows(at(5499)));
        assert_eq!(fallback.cause(at(5500)), Some(Cause::Silent));
    }

    #[test]
    fn after_a_session_another_is_waited_for() {
        let mut fallback = Fallback::new(at(0));
        fallback.joined(at(0));
        fallback.piece(at(100));
        fallback.closed(at(5000));
        assert_eq!(fallback.cause(at(6999)), None);
        assert_eq!(fallback.cause(at(7000)), Some(Cause::Silent));
    }

    #[test]
    fn slow_traffic_is_left_alone_until_it_is_stuck() {
        let mut fallback = Fallback::new(at(0));
        fallback.joined(at(0));
        for second in 1..10 {
            fallback.datagrams(TRAFFIC_DATAGRAMS_MIN, 0, at(second * 1000));
            assert_eq!(fallback.cause(at(second * 1000)), None, "after {second} s");
        }
        fallback.datagrams(TRAFFIC_DATAGRAMS_MIN, 0, at(10_000));
        assert_eq!(fallback.cause(at(10_000)), Some(Cause::Stuck));
    }

    #[test]
    fn control_datagrams_alone_are_silence() {
        let mut fallback = Fallback::new(at(0));
        fallback.joined(at(0));
        fallback.datagrams(TRAFFIC_DATAGRAMS_MIN - 1, 0, at(1900));
        assert_eq!(fallback.cause(at(2000)), Some(Cause::Silent));
    }

    #[test]
    fn a_demoted_node_helps_itself_when_nothing_comes() {
        let mut fallback = Fallback::new(at(0));
        fallback.joined(at(0));
        fallback.piece(at(100));
        fallback.demoted();
        fallback.datagrams(1000, 0, at(500));
        assert_eq!(fallback.cause(at(599)), None);
        assert_eq!(fallback.cause(at(600)), Some(Cause::Demoted));
    }

    #[test]
    fn what_is_known_to_be_down_is_not_waited_for() {
        let mut fallback = Fallback::new(at(0));
        fallback.down(Cause::NotOffered);
        assert_eq!(fallback.cause(at(0)), Some(Cause::NotOffered));
        fallback.joined(at(1));
        assert_eq!(fallback.cause(at(1)), None);
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let mut backoff = Backoff::new();
        assert!(backoff.is_ready(at(0)));
        backoff.failed(at(0));
        assert!(!backoff.is_ready(at(199)));
        assert!(backoff.is_ready(at(200)));
        (0..10).for_each(|_| backoff.failed(at(0)));
        assert!(!backoff.is_ready(at(4999)));
        assert!(backoff.is_ready(at(5000)));
        backoff.succeeded();
        assert!(backoff.is_ready(at(0)));
    }
}

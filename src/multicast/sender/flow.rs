//! The window: how far the sender is ahead of its receivers, and who is waited for.
//!
//! Nobody holds the group: the window waits for a receiver at most [`STALL_MAX`], and for a
//! minority at most [`HOLD_MAX`] in about a second longer than is usual; who is not waited for any
//! more is waited for again once it has caught up. Who hears nothing while others do is not waited
//! for at all.
//!
//! What is usual is the median of how long receivers hold the window. Where all are short of
//! processor time, now this one is behind and now that one: each holds the window as long as the
//! others do, and to go on without any of them would only overflow its socket. Who is slower than
//! the others stands out among them.

use std::time::Duration;

use super::members::{Members, Standing};
use crate::base::{NodeId, Time};
use crate::multicast::keys::Key;
use crate::multicast::limits::{HOLD_MAX, STALL_MAX};

/// The state of the window.
#[derive(Debug)]
pub(super) struct Flow {
    /// How many datagrams may be under way.
    pub(super) window: u64,
    /// How long receivers usually hold the window of late.
    usual_hold: Duration,
    gate: Gate,
}

/// Whether data may go.
#[derive(Clone, Copy, Debug)]
enum Gate {
    Open,
    /// The window is full.
    Full(Blocked),
    /// Nobody is waited for: all that are served have fallen silent, or nobody is served.
    Deserted,
}

/// Who blocks the window.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    since: Time,
    /// Who is the furthest behind.
    by: NodeId,
    /// Whether most receivers are ahead of it.
    is_minority: bool,
    /// When it is not waited for any more.
    until: Time,
}

impl Flow {
    pub(super) const fn new(window: u64) -> Self {
        Self {
            window,
            usual_hold: Duration::ZERO,
            gate: Gate::Deserted,
        }
    }

    /// When it is worth to ask again whether data may go, by the last answer; `None` if it was yes.
    pub(super) const fn closed_until(&self) -> Option<Time> {
        match self.gate {
            Gate::Open => None,
            Gate::Full(blocked) => Some(blocked.until),
            Gate::Deserted => Some(Time::NEVER),
        }
    }

    /// Has what receivers held fade, and sees what is usual among those that are served; called
    /// every [`TICK`](crate::multicast::limits::TICK).
    pub(super) fn tick<K: Key>(&mut self, members: &mut Members<K>) {
        let mut held = Vec::new();
        for (_, member) in members.iter_mut() {
            member.held = member.held * 9 / 10;
            if member.standing == Standing::Active {
                held.push(member.held);
            }
        }
        // Of two, the one that holds less.
        let middle = held.len().saturating_sub(1) / 2;
        self.usual_hold = if held.is_empty() {
            Duration::ZERO
        } else {
            *held.select_nth_unstable(middle).1
        };
    }

    /// Whether `burst` datagrams from `counter` on may go. Nothing may while nobody is waited for.
    pub(super) fn may_send<K: Key>(
        &mut self,
        members: &mut Members<K>,
        counter: u64,
        burst: u64,
        now: Time,
    ) -> bool {
        loop {
            let Some(&(ack, node)) = members.waited_for.first() else {
                self.gate = Gate::Deserted;
                return false;
            };
            if counter + burst <= ack + self.window.max(burst) {
                self.unblock(members, now);
                return true;
            }
            let horizon = (counter + burst).saturating_sub(self.window.max(burst));
            let blocked = self.block(members, node, horizon, now);
            if now < blocked.until {
                return false;
            }
            self.unblock(members, now);
            members.wait_for(node, false);
            // Who has not moved either since then has had its time: one after the other would hold
            // the group for long.
            self.gate = Gate::Full(Blocked {
                is_minority: false,
                ..blocked
            });
        }
    }

    /// After an acknowledgement: waits for a receiver again that has caught up.
    pub(super) fn wait_again<K: Key>(&self, members: &mut Members<K>, node: NodeId, counter: u64) {
        let nobody = members.waited_for.is_empty();
        let is_near = |ack: u64| counter <= ack + self.window / 2;
        let again = members.get(node).is_some_and(|member| {
            member.standing == Standing::Active
                && !member.is_waited_for
                && !member.wants.is_empty()
                && (nobody || is_near(member.ack))
        });
        if again {
            members.wait_for(node, true);
        }
    }

    fn block<K: Key>(
        &mut self,
        members: &Members<K>,
        node: NodeId,
        horizon: u64,
        now: Time,
    ) -> Blocked {
        let before = match self.gate {
            Gate::Full(blocked) => Some(blocked),
            Gate::Open | Gate::Deserted => None,
        };
        let since = before.map_or(now, |blocked| blocked.since);
        let is_minority = if let Some(before) = before.filter(|before| before.by == node) {
            before.is_minority
        } else {
            let count = members.waited_for.len();
            let behind = ..(horizon, NodeId([0; 16]));
            count >= 2 && members.waited_for.range(behind).count() * 2 <= count
        };
        let others_hear = members.waited_for.last().is_some_and(|&(ack, _)| ack > 0);
        let until = members.get(node).map_or(now, |member| {
            if member.ack == 0 && others_hear {
                return now;
            }
            let stalls = member.advanced_at.max(since) + STALL_MAX;
            if is_minority {
                let hold_max = HOLD_MAX + self.usual_hold;
                stalls.min(since + hold_max.saturating_sub(member.held))
            } else {
                stalls
            }
        });
        let blocked = Blocked {
            since,
            by: node,
            is_minority,
            until,
        };
        self.gate = Gate::Full(blocked);
        blocked
    }

    fn unblock<K: Key>(&mut self, members: &mut Members<K>, now: Time) {
        if let Gate::Full(blocked) = self.gate
            && blocked.is_minority
            && let Some(member) = members.get_mut(blocked.by)
        {
            member.held += now.since(blocked.since);
        }
        self.gate = Gate::Open;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::EpochId;
    use crate::multicast::keys::{Cipher, PlainCipher, PlainKey, Secret};
    use crate::multicast::wire::report::{Report, ReportHeader};

    const STEP: Duration = Duration::from_millis(10);

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    /// A group of four that is served and waited for.
    fn group() -> Members<PlainKey> {
        let mut members = Members::new();
        for number in 1..=4 {
            let header = ReportHeader {
                tsi: 1,
                epoch: EpochId(1),
                node: node(number),
                counter: 0,
            };
            let secret = Secret::new([1; 32]);
            let key = || PlainCipher.report_key(&secret, EpochId(1), 1, node(number));
            let (clear, mut body) = (header.emit(), Report::default().emit());
            let tag = key().seal(0, &clear, &mut body);
            let mut datagram = [&clear[..], &body, &tag].concat();
            let from = "10.0.0.1:9".parse().unwrap();
            assert!(members.open(&header, &mut datagram, from, key).is_ok());
            members.get_mut(node(number)).unwrap().standing = Standing::Active;
            members.wait_for(node(number), true);
        }
        members
    }

    #[test]
    fn however_many_fall_silent_the_window_waits_once_and_for_the_deaf_not_at_all() {
        let mut waits = Vec::new();
        for (silent, deaf) in [(1, 0), (2, 0), (3, 0), (0, 1), (0, 3)] {
            let (mut members, mut flow) = (group(), Flow::new(100));
            let (mut now, mut counter, mut waited) = (Time::from_nanos(1_000_000_000), 0, 0);
            for number in deaf + 1..=4 {
                members.advance(node(number), 1, now);
            }
            for _ in 0..200 {
                for number in silent + deaf + 1..=4 {
                    members.advance(node(number), counter, now);
                }
                let may_send = flow.may_send(&mut members, counter, 10, now);
                counter += 10 * u64::from(may_send);
                waited += u32::from(!may_send);
                now += STEP;
            }
            waits.push(STEP * waited);
        }
        assert!(waits.iter().all(|&wait| wait <= STALL_MAX), "{waits:?}");
        assert_eq!(waits[3..], [Duration::ZERO; 2]);
    }

    /// Two seconds in which at most one receiver at a time, whom `behind` names, is silent;
    /// gives who is still waited for.
    fn still_waited_for(behind: impl Fn(u32) -> u8) -> Vec<u8> {
        let (mut members, mut flow) = (group(), Flow::new(100));
        let (mut now, mut counter) = (Time::from_nanos(1_000_000_000), 0);
        for number in 1..=4 {
            members.advance(node(number), 1, now);
        }
        for step in 0..200 {
            for number in (1..=4).filter(|&number| number != behind(step)) {
                members.advance(node(number), counter, now);
            }
            for _ in 0..10 {
                counter += 10 * u64::from(flow.may_send(&mut members, counter, 10, now));
            }
            if step % 10 == 9 {
                flow.tick(&mut members);
            }
            now += STEP;
        }
        let is_waited_for = |&number: &u8| members.get(node(number)).unwrap().is_waited_for;
        (1..=4).filter(is_waited_for).collect()
    }

    #[test]
    fn who_is_behind_in_turn_with_the_others_is_waited_for() {
        let in_turn = |step| u8::try_from(step / 8 % 4 + 1).unwrap();
        assert_eq!(still_waited_for(in_turn), [1, 2, 3, 4]);
    }

    #[test]
    fn who_is_behind_more_than_the_others_is_not() {
        let mostly_the_second = |step| if step % 10 < 7 { 2 } else { 0 };
        assert_eq!(still_waited_for(mostly_the_second), [1, 3, 4]);
    }
}

//! The window: how far the sender is ahead of its receivers, and who is waited for.
//!
//! Nobody holds the group: the window waits for a receiver at most [`STALL_MAX`], and for a minority
//! at most [`HOLD_MAX`] in about a second; who is not waited for any more is waited for again once
//! it has caught up.

use super::members::{Members, Standing};
use crate::base::{NodeId, Time};
use crate::multicast::keys::Key;
use crate::multicast::limits::{HOLD_MAX, STALL_MAX};

/// The state of the window.
#[derive(Debug)]
pub(super) struct Flow {
    /// How many datagrams may be under way.
    pub(super) window: u64,
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
        let until = members.get(node).map_or(now, |member| {
            let stalls = member.advanced_at.max(since) + STALL_MAX;
            if is_minority {
                stalls.min(since + HOLD_MAX.saturating_sub(member.held))
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

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::machine::world::{Conditions, Socket, at_millis};
use crate::machine::{Input, Machine, Output, Transmit};

/// What a machine heard.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Accepted(SocketAddr),
    Connected,
    Received(Vec<u8>),
    Sent(usize),
    Closed(Closed),
}

/// Does what it is told, and tells what it hears.
#[derive(Default)]
struct Speaker {
    wishes: VecDeque<StreamOp>,
    heard: VecDeque<(StreamId, Heard)>,
}

impl Machine for Speaker {
    type Command = StreamOp;
    type Event = (StreamId, Heard);

    fn handle(&mut self, input: Input<'_, StreamOp>, _: Time) {
        match input {
            Input::Command(op) => self.wishes.push_back(op),
            Input::Stream(input) => {
                let id = input.id();
                let heard = match input {
                    StreamInput::Accepted { from, .. } => Heard::Accepted(from),
                    StreamInput::Connected { .. } => Heard::Connected,
                    StreamInput::Received { bytes, .. } => Heard::Received(bytes.to_vec()),
                    StreamInput::Sent { count, .. } => Heard::Sent(count),
                    StreamInput::Closed { why, .. } => Heard::Closed(why),
                };
                self.heard.push_back((id, heard));
            }
            Input::Datagrams(_) | Input::Disk(_) | Input::Timeout => {}
        }
    }

    fn poll_transmit(&mut self, _: Time, _: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<(StreamId, Heard)>> {
        let wish = self.wishes.pop_front().map(Output::Stream);
        wish.or_else(|| self.heard.pop_front().map(Output::Event))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

/// All that a host heard, and when.
type Log = Rc<RefCell<Vec<(Time, StreamId, Heard)>>>;

/// Hosts that all listen.
struct Hosts {
    world: World,
    logs: Vec<Log>,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(host).unwrap()], 6881))
}

fn out(number: u32) -> StreamId {
    StreamId::outgoing(number)
}

fn incoming(number: u32) -> StreamId {
    StreamId::incoming(number)
}

fn rate(rate: u64) -> Conditions {
    Conditions {
        rate,
        ..Conditions::default()
    }
}

fn latency(millis: u64) -> Conditions {
    Conditions {
        latency: Duration::from_millis(millis),
        ..Conditions::default()
    }
}

impl Hosts {
    fn new(count: usize) -> Self {
        let mut hosts = Self {
            world: World::new(1),
            logs: Vec::new(),
        };
        for index in 0..count {
            let socket = Socket {
                local: address(index),
                groups: Vec::new(),
            };
            let host = hosts.world.add_host(vec![socket], Vec::new());
            hosts.world.listen(host, address(index));
            hosts.logs.push(Log::default());
            hosts.start(index);
        }
        hosts
    }

    fn start(&mut self, host: usize) {
        let log = Rc::clone(&self.logs[host]);
        let note = move |at, (id, heard)| log.borrow_mut().push((at, id, heard));
        self.world.start(HostIndex(host), Speaker::default(), note);
    }

    fn wish(&mut self, host: usize, op: StreamOp) {
        self.world.command::<Speaker>(HostIndex(host), op);
    }

    fn connect(&mut self, host: usize, number: u32, to: usize) {
        let (id, to) = (out(number), address(to));
        self.wish(host, StreamOp::Connect { id, to });
    }

    fn send(&mut self, host: usize, id: StreamId, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.wish(host, StreamOp::Send { id, bytes });
    }

    fn close(&mut self, host: usize, id: StreamId) {
        self.wish(host, StreamOp::Close { id });
    }

    fn run(&mut self, millis: u64) {
        self.world.run_until(at_millis(millis));
    }

    /// What a host heard of one stream, `Sent` apart.
    fn heard(&self, host: usize, id: StreamId) -> Vec<Heard> {
        let log = self.logs[host].borrow();
        let of = log
            .iter()
            .filter(|(_, of, heard)| *of == id && !matches!(heard, Heard::Sent(_)));
        of.map(|(.., heard)| heard.clone()).collect()
    }

    fn received(&self, host: usize, id: StreamId) -> Vec<u8> {
        let mut bytes = Vec::new();
        for heard in self.heard(host, id) {
            if let Heard::Received(more) = heard {
                bytes.extend(more);
            }
        }
        bytes
    }

    fn sent(&self, host: usize, id: StreamId) -> usize {
        let mut sent = 0;
        for (_, of, heard) in self.logs[host].borrow().iter() {
            if let (true, Heard::Sent(count)) = (*of == id, heard) {
                sent += count;
            }
        }
        sent
    }

    /// When a host heard the last of a stream, in milliseconds.
    fn last_at(&self, host: usize, id: StreamId) -> u64 {
        let log = self.logs[host].borrow();
        let last = log.iter().rev().find(|(_, of, _)| *of == id);
        last.map_or(0, |(at, ..)| at.as_nanos() / 1_000_000)
    }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| at.to_le_bytes()[0].wrapping_mul(31) ^ at.to_le_bytes()[1] ^ seed)
        .collect()
}

#[test]
fn bytes_arrive_whole_and_in_order_both_ways_however_they_are_given() {
    for seed in 0..8u8 {
        let mut hosts = Hosts::new(2);
        let bytes = 1 << (12 + seed);
        hosts.world.set_up_link(HostIndex(0), rate(bytes));
        hosts.world.set_down_link(HostIndex(1), rate(2 * bytes));
        hosts.world.set_up_link(HostIndex(1), latency(7));
        hosts.connect(0, 0, 1);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for turn in 0..20u8 {
            let part = noise(1 + 5000 * usize::from(turn % 7), turn ^ seed);
            there.extend_from_slice(&part);
            hosts.send(0, out(0), part);
            hosts.run(10 + 10 * u64::from(turn));
            let part = noise(1 + 700 * usize::from(turn % 5), turn);
            back.extend_from_slice(&part);
            hosts.send(1, incoming(0), part);
        }
        hosts.run(1_000_000);
        assert!(hosts.received(1, incoming(0)) == there, "{seed}");
        assert!(hosts.received(0, out(0)) == back, "{seed}");
        assert_eq!(hosts.sent(0, out(0)), there.len());
        assert_eq!(hosts.sent(1, incoming(0)), back.len());
    }
}

#[test]
fn the_slower_link_sets_the_pace_and_latencies_add_up() {
    for (up, down) in [(1_000_000, 0), (0, 1_000_000), (1_000_000, 4_000_000)] {
        let mut hosts = Hosts::new(2);
        hosts.world.set_up_link(HostIndex(0), rate(up));
        hosts.world.set_down_link(HostIndex(1), rate(down));
        hosts.connect(0, 0, 1);
        hosts.send(0, out(0), vec![1; 1_000_000]);
        hosts.run(10_000);
        assert_eq!(hosts.received(1, incoming(0)).len(), 1_000_000);
        let millis = hosts.last_at(1, incoming(0));
        // 1054 of headers and bytes; the last segment crosses the faster link, too.
        assert!((1050..1075).contains(&millis), "{up} {down}: {millis}");
    }
    let mut hosts = Hosts::new(2);
    for (host, up, down) in [(0, 1, 2), (1, 4, 8)] {
        hosts.world.set_up_link(HostIndex(host), latency(up));
        hosts.world.set_down_link(HostIndex(host), latency(down));
    }
    hosts.connect(0, 0, 1);
    hosts.run(1000);
    assert_eq!(hosts.last_at(1, incoming(0)), 1 + 8);
    assert_eq!(hosts.last_at(0, out(0)), 1 + 8 + 4 + 2);
    hosts.send(0, out(0), vec![1]);
    hosts.run(2000);
    assert_eq!(hosts.last_at(1, incoming(0)), 1000 + 1 + 8);
}

#[test]
fn latency_does_not_slow_a_stream_within_its_window() {
    let mut hosts = Hosts::new(2);
    let conditions = Conditions {
        rate: 12_500_000,
        latency: Duration::from_millis(5),
        ..Conditions::default()
    };
    hosts.world.set_up_link(HostIndex(0), conditions);
    hosts.world.set_down_link(HostIndex(1), conditions);
    hosts.connect(0, 0, 1);
    hosts.send(0, out(0), vec![1; 12_500_000]);
    hosts.run(10_000);
    let millis = hosts.last_at(1, incoming(0));
    assert!((1050..1100).contains(&millis), "{millis}");
}

#[test]
fn streams_of_one_host_share_its_link() {
    let mut hosts = Hosts::new(4);
    hosts.world.set_up_link(HostIndex(0), rate(1_000_000));
    for number in 0..3u32 {
        hosts.connect(0, number, 1 + number as usize);
        hosts.send(0, out(number), vec![1; 400_000]);
    }
    hosts.run(600);
    let got: Vec<usize> = (1..4)
        .map(|host| hosts.received(host, incoming(0)).len())
        .collect();
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(most - least <= SEGMENT_BYTES_MAX, "{got:?}");
    let total: usize = got.iter().sum();
    assert!((500_000..600_000).contains(&total), "{got:?}");
}

#[test]
fn a_slow_sender_does_not_hold_up_a_fast_one_to_the_same_host() {
    let mut hosts = Hosts::new(3);
    hosts.world.set_up_link(HostIndex(0), rate(10_000));
    hosts.world.set_up_link(HostIndex(1), rate(10_000_000));
    hosts.world.set_down_link(HostIndex(2), rate(10_000_000));
    for host in 0..2 {
        hosts.connect(host, 0, 2);
        hosts.send(host, out(0), vec![1; 1_000_000]);
    }
    hosts.run(20_000);
    let id = incoming(1);
    assert_eq!(hosts.received(2, id).len(), 1_000_000);
    let millis = hosts.last_at(2, id);
    assert!((105..120).contains(&millis), "{millis}");
}

#[test]
fn a_slow_receiver_holds_its_sender_up() {
    let mut hosts = Hosts::new(2);
    hosts.world.set_down_link(HostIndex(1), rate(1_000_000));
    hosts.connect(0, 0, 1);
    hosts.send(0, out(0), vec![1; 2_000_000]);
    for step in 1..40 {
        hosts.run(step * 50);
        let ahead = hosts.sent(0, out(0)) - hosts.received(1, incoming(0)).len();
        assert!(ahead <= WINDOW_BYTES, "{ahead} bytes ahead");
    }
    hosts.run(10_000);
    assert_eq!(hosts.sent(0, out(0)), 2_000_000);
    assert_eq!(hosts.received(1, incoming(0)).len(), 2_000_000);
}

#[test]
fn who_connects_hears_once_what_came_of_it() {
    let mut hosts = Hosts::new(3);
    for host in 0..3 {
        hosts.world.set_down_link(HostIndex(host), latency(10));
    }
    hosts.world.crash(HostIndex(2));
    hosts.connect(0, 0, 1);
    hosts.connect(0, 1, 2);
    let elsewhere = |host: usize| SocketAddr::new(address(host).ip(), 9);
    for (number, to) in [(2, elsewhere(1)), (3, elsewhere(77))] {
        let id = out(number);
        hosts.wish(0, StreamOp::Connect { id, to });
    }
    hosts.run(60_000);
    assert_eq!(hosts.heard(0, out(0)), [Heard::Connected]);
    assert_eq!(hosts.last_at(0, out(0)), 20);
    let [Heard::Accepted(from)] = hosts.heard(1, incoming(0))[..] else {
        panic!("{:?}", hosts.heard(1, incoming(0)))
    };
    assert_eq!(from.ip(), address(0).ip());
    assert_ne!(
        from.port(),
        address(0).port(),
        "nobody connects from where it listens"
    );
    for refused in [1, 2] {
        assert_eq!(
            hosts.heard(0, out(refused)),
            [Heard::Closed(Closed::Refused)]
        );
    }
    assert_eq!(hosts.heard(0, out(3)), [Heard::Closed(Closed::TimedOut)]);
    assert_eq!(hosts.last_at(0, out(3)), 5000);
}

#[test]
fn a_connect_waits_for_a_partition_to_heal_but_not_for_long() {
    for (healed_at, connects) in [(3000, true), (6000, false)] {
        let mut hosts = Hosts::new(2);
        hosts.world.set_side(HostIndex(1), 1);
        hosts.connect(0, 0, 1);
        hosts.run(healed_at);
        hosts.world.set_side(HostIndex(1), 0);
        hosts.run(60_000);
        let expected = if connects {
            Heard::Connected
        } else {
            Heard::Closed(Closed::TimedOut)
        };
        assert_eq!(hosts.heard(0, out(0)), [expected]);
        assert_eq!(hosts.heard(1, incoming(0)).len(), usize::from(connects));
    }
}

#[test]
fn what_is_sent_before_a_stream_is_open_follows_when_it_is() {
    let mut hosts = Hosts::new(2);
    hosts.world.set_down_link(HostIndex(0), latency(10));
    hosts.connect(0, 0, 1);
    hosts.send(0, out(0), &b"early"[..]);
    hosts.run(5);
    assert_eq!(hosts.received(1, incoming(0)), b"");
    hosts.send(0, out(0), &b" bird"[..]);
    hosts.run(100);
    assert_eq!(hosts.received(1, incoming(0)), b"early bird");
}

#[test]
fn a_stream_closed_while_it_opens_is_heard_of_no_more() {
    for millis in [0, 5, 15] {
        let mut hosts = Hosts::new(2);
        hosts.world.set_down_link(HostIndex(1), latency(10));
        hosts.world.set_down_link(HostIndex(0), latency(10));
        hosts.connect(0, 0, 1);
        hosts.run(millis);
        hosts.close(0, out(0));
        hosts.close(0, out(0));
        hosts.run(60_000);
        assert_eq!(hosts.heard(0, out(0)), [Heard::Closed(Closed::ByUs)]);
        let there = hosts.heard(1, incoming(0));
        // Who had accepted it hears of its end.
        let ends = there.last() == Some(&Heard::Closed(Closed::ByPeer));
        assert!(ends || there.is_empty(), "{there:?}");
        assert_eq!(ends, millis == 15);
    }
    let mut hosts = Hosts::new(1);
    hosts.connect(0, 0, 77);
    hosts.run(4500);
    hosts.close(0, out(0));
    hosts.run(60_000);
    assert_eq!(hosts.heard(0, out(0)), [Heard::Closed(Closed::ByUs)]);
}

#[test]
fn the_end_of_a_stream_comes_after_its_last_bytes() {
    let mut hosts = Hosts::new(2);
    hosts.world.set_down_link(HostIndex(1), rate(100_000));
    hosts.world.set_up_link(HostIndex(0), latency(10));
    hosts.connect(0, 0, 1);
    hosts.send(0, out(0), vec![1; 100_000]);
    hosts.run(200);
    assert_eq!(hosts.sent(0, out(0)), 100_000);
    hosts.close(0, out(0));
    hosts.send(0, out(0), &b"too late"[..]);
    hosts.send(1, incoming(0), &b"not heard"[..]);
    hosts.run(10_000);
    assert_eq!(
        hosts.heard(0, out(0)),
        [Heard::Connected, Heard::Closed(Closed::ByUs)]
    );
    assert_eq!(hosts.received(1, incoming(0)), [1; 100_000]);
    let there = hosts.heard(1, incoming(0));
    assert_eq!(there.last(), Some(&Heard::Closed(Closed::ByPeer)));
    let ends = there
        .iter()
        .filter(|heard| matches!(heard, Heard::Closed(_)));
    assert_eq!(ends.count(), 1);
}

#[test]
fn what_has_not_left_at_the_end_is_dropped() {
    let mut hosts = Hosts::new(2);
    hosts.world.set_up_link(HostIndex(0), rate(100_000));
    hosts.connect(0, 0, 1);
    hosts.send(0, out(0), vec![1; 1_000_000]);
    hosts.run(1000);
    hosts.close(0, out(0));
    hosts.run(60_000);
    let count = hosts.received(1, incoming(0)).len();
    assert!((60_000..140_000).contains(&count), "{count}");
    assert_eq!(
        hosts.heard(1, incoming(0)).last(),
        Some(&Heard::Closed(Closed::ByPeer))
    );
}

#[test]
fn a_crash_resets_the_streams_of_a_host_and_its_next_life_hears_nothing_of_them() {
    let mut hosts = Hosts::new(3);
    hosts.connect(0, 0, 1);
    hosts.connect(1, 0, 2);
    hosts.run(10);
    hosts.send(0, out(0), vec![1; 100]);
    hosts.connect(1, 1, 0);
    hosts.world.crash(HostIndex(1));
    let before = hosts.heard(1, incoming(0));
    hosts.run(20);
    let reset = Heard::Closed(Closed::Errno(libc::ECONNRESET));
    assert_eq!(hosts.heard(0, out(0)), [Heard::Connected, reset.clone()]);
    assert_eq!(hosts.heard(2, incoming(0)).last(), Some(&reset));
    hosts.start(1);
    hosts.send(0, out(0), vec![1; 100]);
    hosts.send(2, incoming(0), vec![1; 100]);
    hosts.connect(0, 1, 1);
    hosts.connect(1, 0, 2);
    hosts.run(100_000);
    assert_eq!(hosts.heard(1, incoming(0)), before);
    assert!(
        hosts.heard(0, incoming(0)).is_empty(),
        "its request went with it"
    );
    assert!(matches!(
        hosts.heard(1, incoming(1))[..],
        [Heard::Accepted(_)]
    ));
    assert!(matches!(
        hosts.heard(2, incoming(1))[..],
        [Heard::Accepted(_)]
    ));
    assert_eq!(hosts.heard(1, out(0)), [Heard::Connected, Heard::Connected]);
}

#[test]
fn a_short_partition_loses_nothing() {
    for heal in [100, 29_000] {
        let mut hosts = Hosts::new(2);
        hosts.world.set_up_link(HostIndex(0), rate(1_000_000));
        hosts.world.set_down_link(HostIndex(1), latency(3));
        hosts.connect(0, 0, 1);
        let bytes = noise(2_000_000, 7);
        hosts.send(0, out(0), bytes.clone());
        hosts.run(500);
        hosts.world.set_side(HostIndex(1), 1);
        hosts.run(500 + heal);
        let count = hosts.received(1, incoming(0)).len();
        assert!((400_000..550_000).contains(&count), "{count}");
        hosts.world.set_side(HostIndex(1), 0);
        hosts.run(100_000);
        assert!(hosts.received(1, incoming(0)) == bytes);
        assert_eq!(hosts.heard(0, out(0)), [Heard::Connected]);
    }
}

#[test]
fn a_long_partition_ends_the_stream_of_who_speaks() {
    let mut hosts = Hosts::new(2);
    hosts.connect(0, 0, 1);
    hosts.run(1000);
    hosts.world.set_side(HostIndex(1), 1);
    hosts.send(0, out(0), vec![1; 1_000_000]);
    hosts.run(40_000);
    let timed_out = [Heard::Connected, Heard::Closed(Closed::TimedOut)];
    assert_eq!(hosts.heard(0, out(0)), timed_out);
    assert_eq!(hosts.last_at(0, out(0)) / 1000, 31);
    assert!(hosts.sent(0, out(0)) <= WINDOW_BYTES);
    let there = hosts.heard(1, incoming(0));
    assert!(
        matches!(there[..], [Heard::Accepted(_)]),
        "it is silent and knows nothing"
    );
    hosts.world.set_side(HostIndex(1), 0);
    hosts.run(50_000);
    assert_eq!(hosts.heard(1, incoming(0)), there);
    hosts.send(1, incoming(0), &b"hello?"[..]);
    hosts.run(60_000);
    let reset = Heard::Closed(Closed::Errno(libc::ECONNRESET));
    assert_eq!(hosts.heard(1, incoming(0)).last(), Some(&reset));
    assert_eq!(hosts.heard(0, out(0)), timed_out);
}

#[test]
fn who_crashed_while_apart_answers_nobody_until_it_is_asked() {
    let mut hosts = Hosts::new(2);
    hosts.connect(0, 0, 1);
    hosts.run(10);
    hosts.world.set_side(HostIndex(1), 1);
    hosts.world.crash(HostIndex(1));
    hosts.start(1);
    hosts.run(1000);
    hosts.world.set_side(HostIndex(1), 0);
    hosts.run(100_000);
    assert_eq!(hosts.heard(0, out(0)), [Heard::Connected]);
    hosts.send(0, out(0), vec![1]);
    hosts.run(100_100);
    let reset = Heard::Closed(Closed::Errno(libc::ECONNRESET));
    assert_eq!(hosts.heard(0, out(0)), [Heard::Connected, reset]);
}

#[test]
fn the_same_calls_give_the_same_run() {
    let run = |len| {
        let mut hosts = Hosts::new(3);
        hosts.world.set_up_link(HostIndex(0), rate(1_000_000));
        hosts.world.set_down_link(HostIndex(2), latency(2));
        for host in 0..2 {
            hosts.connect(host, 0, 2);
            hosts.send(host, out(0), vec![1; len]);
        }
        hosts.run(10_000);
        hosts.world.trace()
    };
    assert_eq!(run(100_000), run(100_000));
    assert_ne!(run(100_000), run(100_001));
}

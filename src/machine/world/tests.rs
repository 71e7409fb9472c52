use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::base::Block;
use crate::machine::{DiskDone, DiskOp, FileId, Output};

const GROUP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)), 7000);
const SEGMENT: usize = 100;

fn address(host: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(host).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7000))
}

/// Sends bursts of numbered datagrams; notes what it gets; does what it is commanded.
#[derive(Default)]
struct Talker {
    /// Bursts to send: where to, how many datagrams; one every `interval`.
    bursts: VecDeque<(SocketAddr, usize)>,
    interval: Duration,
    next: Option<Time>,
    numbered: u32,
    disk: VecDeque<DiskOp>,
    got: VecDeque<Got>,
    dropped_total: u32,
}

#[derive(Debug, PartialEq)]
enum Got {
    Datagram {
        from: SocketAddr,
        number: u32,
        intact: bool,
    },
    Disk(Result<(), crate::machine::DiskError>, Vec<u8>),
}

enum Say {
    Send {
        to: SocketAddr,
        bursts: usize,
        datagrams: usize,
        interval: Duration,
    },
    Disk(DiskKind, u64, Vec<u8>),
}

impl Machine for Talker {
    type Command = Say;
    type Event = Got;

    fn handle(&mut self, input: Input<'_, Say>, now: Time) {
        match input {
            Input::Datagrams(mut datagrams) => {
                let from = datagrams.from;
                self.dropped_total = datagrams.dropped_total;
                for segment in datagrams.segments() {
                    let number = u32::from_be_bytes(segment[..4].try_into().unwrap());
                    let intact = segment.len() == SEGMENT && segment[4..].iter().all(|&b| b == 9);
                    self.got.push_back(Got::Datagram {
                        from,
                        number,
                        intact,
                    });
                }
            }
            Input::Disk(DiskDone { block, result, .. }) => {
                self.got.push_back(Got::Disk(result, block.to_vec()));
            }
            Input::Timeout | Input::Stream(_) => {}
            Input::Command(Say::Send {
                to,
                bursts,
                datagrams,
                interval,
            }) => {
                self.bursts
                    .extend(std::iter::repeat_n((to, datagrams), bursts));
                self.interval = interval;
                self.next = Some(now);
            }
            Input::Command(Say::Disk(kind, offset, bytes)) => self.disk.push_back(DiskOp {
                tag: 0,
                kind,
                file: FileId(0),
                offset,
                len: bytes.len(),
                block: Block::new(bytes),
            }),
        }
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        let due = self.next.filter(|&next| next <= now)?;
        let (to, datagrams) = self.bursts.pop_front()?;
        let len = datagrams * SEGMENT;
        buffer[..len].fill(9);
        for datagram in buffer[..len].chunks_mut(SEGMENT) {
            datagram[..4].copy_from_slice(&self.numbered.to_be_bytes());
            self.numbered += 1;
        }
        self.next = (!self.bursts.is_empty()).then(|| due + self.interval);
        Some(Transmit {
            channel: Channel(0),
            to,
            len,
            segment_size: SEGMENT,
        })
    }

    fn poll_output(&mut self) -> Option<Output<Got>> {
        let disk = self.disk.pop_front().map(Output::Disk);
        disk.or_else(|| self.got.pop_front().map(Output::Event))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.next
    }
}

/// What a talker got, and when.
type Log = Rc<RefCell<Vec<(Time, Got)>>>;

/// A world of talkers in one group.
struct Talkers {
    world: World,
    logs: Vec<Log>,
}

impl Talkers {
    fn new(seed: u64, count: usize) -> Self {
        let mut talkers = Self {
            world: World::new(seed),
            logs: Vec::new(),
        };
        for index in 0..count {
            let socket = Socket {
                local: address(index),
                groups: vec![GROUP],
            };
            let file = File::expecting(Arc::from([7; 10_000]));
            let host = talkers.world.add_host(vec![socket], vec![file]);
            assert_eq!(host, HostIndex(index));
            talkers.logs.push(Log::default());
            talkers.start(index);
        }
        talkers
    }

    fn start(&mut self, index: usize) {
        let log = Rc::clone(&self.logs[index]);
        let note = move |at, got| log.borrow_mut().push((at, got));
        self.world.start(HostIndex(index), Talker::default(), note);
    }

    fn send(&mut self, index: usize, to: SocketAddr, bursts: usize, datagrams: usize) {
        let interval = Duration::from_micros(100);
        let say = Say::Send {
            to,
            bursts,
            datagrams,
            interval,
        };
        self.world.command::<Talker>(HostIndex(index), say);
    }

    fn events(&mut self, index: usize) -> Vec<(Time, Got)> {
        self.logs[index].take()
    }

    fn numbers(&mut self, index: usize) -> Vec<u32> {
        let number = |(_, got)| match got {
            Got::Datagram { number, .. } => number,
            Got::Disk(..) => panic!("only datagrams are expected"),
        };
        self.events(index).into_iter().map(number).collect()
    }
}

/// Sends 100,000 datagrams over a link, and gives their numbers as they arrive.
fn over(conditions: Conditions) -> (Vec<u32>, Traffic) {
    let mut talkers = Talkers::new(3, 2);
    talkers.world.set_down_link(HostIndex(1), conditions);
    talkers.send(0, GROUP, 2500, 40);
    talkers.world.run_until(at_millis(10_000));
    (talkers.numbers(1), talkers.world.traffic())
}

#[test]
fn a_perfect_wire_brings_everything_in_order_after_its_latency() {
    let mut talkers = Talkers::new(1, 3);
    for host in 1..3 {
        let latency = Duration::from_millis(2);
        talkers.world.set_down_link(
            HostIndex(host),
            Conditions {
                latency,
                ..Conditions::default()
            },
        );
    }
    talkers.send(0, GROUP, 2, 3);
    talkers.world.run_until(at_millis(1));
    assert!(talkers.numbers(1).is_empty());
    talkers.world.run_until(at_millis(100));
    let events = talkers.events(1);
    let expected = |(index, (at, got)): (u32, &(Time, Got))| {
        let time = Time::from_nanos(2_000_000 + u64::from(index / 3) * 100_000);
        *at == time
            && *got
                == Got::Datagram {
                    from: address(0),
                    number: index,
                    intact: true,
                }
    };
    assert_eq!(events.len(), 6);
    assert!((0..).zip(&events).all(expected), "{events:?}");
    assert!(
        talkers.numbers(0).is_empty(),
        "a sender does not hear itself"
    );
    talkers.send(0, address(2), 1, 1);
    talkers.world.run_until(at_millis(200));
    assert!(talkers.numbers(1).is_empty(), "unicast goes to one host");
    assert_eq!(talkers.numbers(2).last(), Some(&6));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut talkers = Talkers::new(seed, 5);
        let harm = Conditions {
            loss: 0.05,
            reorder: 0.02,
            duplicate: 0.02,
            corrupt: 0.02,
            jitter: Duration::from_micros(300),
            ..Conditions::default()
        };
        for host in 0..5 {
            talkers.world.set_down_link(HostIndex(host), harm);
        }
        talkers.send(0, GROUP, 50, 10);
        talkers.send(1, GROUP, 50, 10);
        talkers.world.run_until(at_millis(50));
        talkers.world.crash(HostIndex(2));
        talkers.world.run_until(at_millis(1000));
        (talkers.world.trace(), talkers.world.traffic())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn chances_are_as_asked() {
    let near = |count: u64, share: f64| {
        #[expect(clippy::cast_precision_loss, reason = "the counts are small")]
        let actual = count as f64 / 100_000.0;
        assert!((actual - share).abs() < share * 0.1, "{actual} for {share}");
    };
    let (got, traffic) = over(Conditions {
        loss: 0.05,
        ..Conditions::default()
    });
    near(traffic.lost, 0.05);
    assert_eq!(got.len() as u64, 100_000 - traffic.lost);
    assert!(got.is_sorted());

    let (got, traffic) = over(Conditions {
        reorder: 0.03,
        ..Conditions::default()
    });
    near(traffic.reordered, 0.03);
    assert!(got.len() == 100_000 && !got.is_sorted());

    let (got, traffic) = over(Conditions {
        duplicate: 0.03,
        ..Conditions::default()
    });
    near(traffic.duplicated, 0.03);
    assert_eq!(got.len() as u64, 100_000 + traffic.duplicated);

    let (got, traffic) = over(Conditions {
        corrupt: 0.03,
        ..Conditions::default()
    });
    near(traffic.corrupted, 0.03);
    assert_eq!(got.len(), 100_000);

    let (got, traffic) = over(Conditions::default());
    assert!(got.len() == 100_000 && got.is_sorted());
    assert_eq!(
        (traffic.sent, traffic.delivered, traffic.lost),
        (100_000, 100_000, 0)
    );
}

#[test]
fn burst_loss_comes_in_runs_of_the_length_asked() {
    let bursts = Bursts {
        start: 0.002,
        length_mean: 20.0,
        loss: 1.0,
    };
    let (got, traffic) = over(Conditions {
        bursts: Some(bursts),
        ..Conditions::default()
    });
    let runs = got.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() as u64;
    assert!((150..250).contains(&runs), "{runs} runs");
    assert!(
        (15..25).contains(&(traffic.lost / runs)),
        "{} in {runs} runs",
        traffic.lost
    );
}

#[test]
fn a_rate_delays_and_its_queue_overflows() {
    let run = |queue_bytes_max| {
        let mut talkers = Talkers::new(1, 2);
        let slow = Conditions {
            rate: 100_000,
            queue_bytes_max,
            ..Conditions::default()
        };
        talkers.world.set_down_link(HostIndex(1), slow);
        talkers.send(0, GROUP, 10, 10);
        talkers.world.run_until(at_millis(10_000));
        let last = talkers.events(1).last().map(|(at, _)| *at);
        (last, talkers.world.traffic())
    };
    let (last, traffic) = run(1 << 20);
    assert_eq!(
        last,
        Some(at_millis(100)),
        "10,000 bytes at 100,000 a second"
    );
    assert_eq!(traffic.overflowed, 0);
    let (last, traffic) = run(2_500);
    assert!(last < Some(at_millis(31)));
    assert_eq!((traffic.delivered, traffic.overflowed), (25, 75));
}

#[test]
fn partitions_filters_and_crashes_cut_hosts_off() {
    let mut talkers = Talkers::new(1, 4);
    talkers.world.set_side(HostIndex(1), 1);
    talkers.world.filter_multicast(HostIndex(2), true);
    talkers.world.crash(HostIndex(3));
    talkers.send(0, GROUP, 1, 1);
    talkers.world.run_until(at_millis(10));
    for host in 1..4 {
        assert!(talkers.numbers(host).is_empty());
    }
    talkers.send(0, address(2), 1, 1);
    talkers.world.run_until(at_millis(20));
    assert_eq!(talkers.numbers(2), [1], "unicast passes the filter");

    talkers.world.set_side(HostIndex(1), 0);
    talkers.world.filter_multicast(HostIndex(2), false);
    assert!(!talkers.world.is_up(HostIndex(3)));
    talkers.start(3);
    talkers.send(0, GROUP, 1, 1);
    talkers.world.run_until(at_millis(30));
    for host in 1..4 {
        assert_eq!(talkers.numbers(host), [2]);
    }
}

#[test]
fn anybody_can_inject_and_the_tap_sees_what_machines_send() {
    let mut talkers = Talkers::new(1, 2);
    let seen = Rc::new(Cell::new(0));
    let counter = Rc::clone(&seen);
    talkers
        .world
        .set_tap(Box::new(move |_, host, transmit, bytes| {
            assert_eq!((host, transmit.len), (HostIndex(0), bytes.len()));
            counter.set(counter.get() + 1);
        }));
    talkers.send(0, GROUP, 3, 1);
    talkers
        .world
        .inject(address(9), address(1), &[9; SEGMENT * 2], SEGMENT);
    talkers.world.run_until(at_millis(10));
    assert_eq!(seen.get(), 3);
    assert_eq!(talkers.numbers(1).len(), 5);
}

#[test]
fn files_keep_what_was_written_and_fail_when_asked() {
    let mut talkers = Talkers::new(1, 1);
    let disk = |talkers: &mut Talkers, kind, offset, bytes: &[u8]| {
        talkers
            .world
            .command::<Talker>(HostIndex(0), Say::Disk(kind, offset, bytes.to_vec()));
        let end = talkers.world.now() + Duration::from_millis(10);
        talkers.world.run_until(end);
        match talkers.events(0).pop() {
            Some((_, Got::Disk(result, bytes))) => (result, bytes),
            other => panic!("{other:?}"),
        }
    };
    let short = disk(&mut talkers, DiskKind::Read, 0, &[0]);
    assert_eq!(short.0, Err(crate::machine::DiskError::Short));
    assert_eq!(
        disk(&mut talkers, DiskKind::Write, 5_000, &[7; 5_000]).0,
        Ok(())
    );
    assert!(
        !talkers.world.files(HostIndex(0))[0].equals(&[7; 10_000]),
        "the first half is a hole"
    );
    assert_eq!(
        disk(&mut talkers, DiskKind::Write, 0, &[7; 5_001]).0,
        Ok(())
    );
    assert!(talkers.world.files(HostIndex(0))[0].equals(&[7; 10_000]));
    assert_eq!(disk(&mut talkers, DiskKind::Write, 9_999, &[8]).0, Ok(()));
    assert!(!talkers.world.files(HostIndex(0))[0].equals(&[7; 10_000]));
    assert_eq!(
        disk(&mut talkers, DiskKind::Read, 9_997, &[0; 3]),
        (Ok(()), vec![7, 7, 8])
    );

    talkers.world.files(HostIndex(0))[0].disk.capacity = 12_288;
    let full = disk(&mut talkers, DiskKind::Write, 12_288, &[1]);
    assert_eq!(full.0, Err(crate::machine::DiskError::Full));
    talkers.world.files(HostIndex(0))[0].disk.error = 1.0;
    let failed = disk(&mut talkers, DiskKind::Read, 0, &[0]);
    assert_eq!(failed.0, Err(crate::machine::DiskError::Errno(5)));
}

#[test]
fn a_crash_tears_the_writes_under_way() {
    let (mut done, mut none, mut torn) = (0, 0, 0);
    for seed in 0..100 {
        let mut talkers = Talkers::new(seed, 1);
        talkers
            .world
            .command::<Talker>(HostIndex(0), Say::Disk(DiskKind::Write, 0, vec![7; 10_000]));
        talkers.world.crash(HostIndex(0));
        talkers.world.run_until(at_millis(100));
        match talkers.world.files(HostIndex(0))[0].len() {
            0 => none += 1,
            10_000 => done += 1,
            _ => torn += 1,
        }
    }
    assert!(done > 20 && none > 5 && torn > 5, "{done} {none} {torn}");
}

#[test]
#[should_panic(expected = "sends without end")]
fn a_machine_that_sends_without_end_is_caught() {
    let mut talkers = Talkers::new(1, 1);
    let say = Say::Send {
        to: GROUP,
        bursts: 200_000,
        datagrams: 1,
        interval: Duration::ZERO,
    };
    talkers.world.command::<Talker>(HostIndex(0), say);
}

#[test]
#[should_panic(expected = "spins")]
fn a_machine_that_wants_the_same_moment_for_ever_is_caught() {
    struct Spinner;
    impl Machine for Spinner {
        type Command = ();
        type Event = ();
        fn handle(&mut self, _: Input<'_, ()>, _: Time) {}
        fn poll_transmit(&mut self, _: Time, _: &mut [u8]) -> Option<Transmit> {
            None
        }
        fn poll_output(&mut self) -> Option<Output<()>> {
            None
        }
        fn poll_timeout(&self) -> Option<Time> {
            Some(Time::ZERO)
        }
    }
    let mut world = World::new(1);
    let host = world.add_host(Vec::new(), Vec::new());
    world.start(host, Spinner, |_, ()| {});
    world.run_until(at_millis(1));
}

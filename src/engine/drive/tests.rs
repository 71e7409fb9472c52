use std::collections::VecDeque;

use super::*;
use crate::base::Counter;
use crate::engine::Mailbox;
use crate::engine::limits::COPIES_MAX;
use crate::engine::mailbox::mailbox;
use crate::machine::Channel;

mod disk;
mod namespace;
mod streams;
mod theatre;

/// Both backends, each in its best way.
const BOTH: [Ways; 2] = [
    Ways {
        backend: Backend::Ring,
        ..Ways::BEST
    },
    Ways::PLAIN,
];
/// Past this a test has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A machine that does as it is told and tells all that it is given.
#[derive(Default)]
struct Puppet {
    sends: VecDeque<Send>,
    operations: VecDeque<DiskOp>,
    events: VecDeque<Seen>,
    alarm: Option<Time>,
    /// Sets the alarm anew after each.
    tick: Option<Duration>,
    /// Sends every datagram back.
    echo: bool,
    /// Sends this for ever.
    flood: Option<Send>,
}

#[derive(Clone, Debug)]
struct Send {
    channel: Channel,
    to: SocketAddr,
    bytes: Vec<u8>,
    segment_size: usize,
}

#[derive(Debug)]
enum Seen {
    Datagrams {
        channel: Channel,
        from: SocketAddr,
        bytes: Vec<u8>,
        segment_size: usize,
        dropped_total: u32,
    },
    Disk(DiskDone),
    Alarm(Time),
    Ordered,
}

impl Machine for Puppet {
    type Command = Send;
    type Event = Seen;

    fn handle(&mut self, input: Input<'_, Send>, now: Time) {
        match input {
            Input::Datagrams(datagrams) => {
                if self.echo {
                    self.sends.push_back(Send {
                        channel: datagrams.channel,
                        to: datagrams.from,
                        bytes: datagrams.bytes.to_vec(),
                        segment_size: datagrams.segment_size,
                    });
                }
                self.events.push_back(Seen::Datagrams {
                    channel: datagrams.channel,
                    from: datagrams.from,
                    bytes: datagrams.bytes.to_vec(),
                    segment_size: datagrams.segment_size,
                    dropped_total: datagrams.dropped_total,
                });
            }
            Input::Disk(done) => self.events.push_back(Seen::Disk(done)),
            Input::Stream(_) => {}
            Input::Timeout => {
                self.alarm = self.tick.map(|tick| now + tick);
                self.events.push_back(Seen::Alarm(now));
            }
            Input::Command(order) => {
                self.events.push_back(Seen::Ordered);
                self.sends.push_back(order);
            }
        }
    }

    fn poll_transmit(&mut self, _now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        let send = self.sends.pop_front().or_else(|| self.flood.clone())?;
        buffer[..send.bytes.len()].copy_from_slice(&send.bytes);
        Some(Transmit {
            channel: send.channel,
            to: send.to,
            len: send.bytes.len(),
            segment_size: send.segment_size,
        })
    }

    fn poll_output(&mut self) -> Option<Output<Seen>> {
        if let Some(op) = self.operations.pop_front() {
            return Some(Output::Disk(op));
        }
        self.events.pop_front().map(Output::Event)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.alarm
    }
}

/// Every way to ask the kernel.
fn every_way() -> impl Iterator<Item = Ways> {
    const EACH: [Way; 3] = [Way::Coalesced, Way::Batched, Way::Single];
    const SENDS: [Way; 4] = [Way::ZeroCopy, EACH[0], EACH[1], EACH[2]];
    BOTH.into_iter().flat_map(|best| {
        // Only the ring has the first.
        let first = usize::from(best.backend == Backend::Plain);
        SENDS[first..].iter().flat_map(move |&send| {
            EACH.into_iter().map(move |receive| Ways {
                send,
                receive,
                ..best
            })
        })
    })
}

/// A driver with what a test needs of it.
struct Stage {
    driver: Driver,
    mailbox: Mailbox<Send>,
    commands: Commands<Send>,
    counters: Arc<Counters>,
}

fn stage(ways: Ways, sockets: Vec<Socket>, files: Vec<File>, arena: Option<&Arena>) -> Stage {
    let counters = Arc::new(Counters::default());
    let (mailbox, commands) = mailbox().unwrap();
    let driver = Driver::new(Setup {
        sockets,
        listeners: Vec::new(),
        files,
        arena: arena.cloned(),
        ways,
        counters: Arc::clone(&counters),
    })
    .unwrap();
    Stage {
        driver,
        mailbox,
        commands,
        counters,
    }
}

impl Stage {
    /// Runs until `on_event` breaks; fails when that does not happen.
    fn play(&mut self, puppet: &mut Puppet, mut on_event: impl FnMut(Seen) -> ControlFlow<()>) {
        let (over, watched) = crossbeam::channel::bounded::<()>(1);
        let mailbox = self.mailbox.clone();
        let mut broke = false;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if watched
                    .recv_timeout(DEADLINE)
                    .is_err_and(|e| e.is_timeout())
                {
                    mailbox.stop();
                }
            });
            self.driver
                .run(puppet, &self.commands, |event| {
                    let flow = on_event(event);
                    broke |= flow.is_break();
                    flow
                })
                .unwrap();
            drop(over);
        });
        assert!(broke, "the test's end did not come before its deadline");
    }
}

fn loopback() -> Socket {
    Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().step_by(7).take(len).collect()
}

fn plain_sender() -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Runs `work` on another thread with a driver of its own, stopped at the end of the test.
fn aside<R>(
    ways: Ways,
    socket: Socket,
    mut puppet: Puppet,
    work: impl FnOnce(&Mailbox<Send>) -> R,
) -> R {
    let (tell, told) = crossbeam::channel::bounded(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stage = stage(ways, vec![socket], vec![], None);
            tell.send(stage.mailbox.clone()).unwrap();
            let events = |_| ControlFlow::Continue(());
            stage
                .driver
                .run(&mut puppet, &stage.commands, events)
                .unwrap();
        });
        let mailbox = told.recv_timeout(DEADLINE).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mailbox)));
        mailbox.stop();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_burst_of_44_comes_back_from_an_echo_with_its_sizes() {
    for ways in every_way() {
        let echo = loopback();
        let to = echo.local();
        let puppet = Puppet {
            echo: true,
            ..Puppet::default()
        };
        aside(ways, echo, puppet, |_| {
            let bytes = pattern(43 * 1456 + 100);
            let mut stage = stage(ways, vec![loopback()], vec![], None);
            let mut puppet = Puppet::default();
            puppet.sends.push_back(Send {
                channel: Channel(0),
                to,
                bytes: bytes.clone(),
                segment_size: 1456,
            });
            let mut got = Vec::new();
            stage.play(&mut puppet, |event| {
                let Seen::Datagrams {
                    channel,
                    from,
                    bytes: more,
                    segment_size,
                    dropped_total,
                } = event
                else {
                    panic!("{event:?}");
                };
                assert_eq!((channel, from, dropped_total), (Channel(0), to, 0));
                assert!(segment_size == 1456 || more.len() == 100);
                assert!(more.len() == segment_size || ways.receive == Way::Coalesced);
                got.extend(more);
                if got.len() < bytes.len() {
                    return ControlFlow::Continue(());
                }
                assert_eq!(got, bytes);
                ControlFlow::Break(())
            });
            let count = |counter| stage.counters.get(counter);
            assert_eq!(count(Counter::PacketsOut), 44);
            assert_eq!(count(Counter::PacketsIn), 44);
            assert_eq!(count(Counter::BytesOut), bytes.len() as u64);
            assert_eq!(count(Counter::BytesIn), bytes.len() as u64);
            let entries = if ways.send == Way::Single { 44 } else { 1 };
            assert_eq!(count(Counter::KernelEntriesOut), entries, "{ways}");
            assert_eq!(stage.driver.ways(), ways, "all of them work here");
        });
    }
}

#[test]
fn a_full_receive_buffer_shows_as_dropped_total() {
    for ways in BOTH {
        let to = loopback();
        let (address, room) = (to.local(), to.receive_bytes());
        let (sender, _) = plain_sender();
        // Nobody receives yet; the kernel accounts more than the payload, so this is too much.
        let datagram = vec![0; 60_000];
        let count = room / datagram.len() + 10;
        for _ in 0..count {
            sender.send_to(&datagram, address).unwrap();
        }
        let mut stage = stage(ways, vec![to], vec![], None);
        let mut puppet = Puppet::default();
        let mut received = 0;
        stage.play(&mut puppet, |event| {
            let Seen::Datagrams {
                bytes,
                dropped_total,
                ..
            } = event
            else {
                panic!("{event:?}");
            };
            if dropped_total > 0 {
                assert!(received > 0, "the first ones found room");
                return ControlFlow::Break(());
            }
            received += usize::from(bytes.len() == datagram.len());
            if received % 16 == 0 {
                // The number comes with datagrams that were queued after the drop.
                sender.send_to(&[1], address).unwrap();
            }
            ControlFlow::Continue(())
        });
        assert!(stage.counters.get(Counter::DroppedByKernel) > 0);
    }
}

#[test]
fn empty_datagrams_are_counted_and_not_handed_on() {
    for ways in BOTH {
        let to = loopback();
        let (sender, from) = plain_sender();
        sender.send_to(&[], to.local()).unwrap();
        sender.send_to(&[5; 3], to.local()).unwrap();
        let mut stage = stage(ways, vec![to], vec![], None);
        stage.play(&mut Puppet::default(), |event| {
            let Seen::Datagrams {
                bytes, from: seen, ..
            } = event
            else {
                panic!("{event:?}");
            };
            assert_eq!((bytes, seen), (vec![5; 3], from));
            ControlFlow::Break(())
        });
        assert_eq!(stage.counters.get(Counter::PacketsIn), 2);
    }
}

#[test]
fn a_flood_starves_neither_what_comes_in_nor_orders() {
    for ways in BOTH {
        let (sink, nowhere) = plain_sender();
        let socket = loopback();
        let address = socket.local();
        let mut stage = stage(ways, vec![socket], vec![], None);
        let mut puppet = Puppet {
            flood: Some(Send {
                channel: Channel(0),
                to: nowhere,
                bytes: pattern(44 * 1400),
                segment_size: 1400,
            }),
            ..Puppet::default()
        };
        stage
            .mailbox
            .send(Send {
                channel: Channel(0),
                to: address,
                bytes: vec![9],
                segment_size: 1,
            })
            .ok()
            .unwrap();
        let mut echoes = 0;
        stage.play(&mut puppet, |event| {
            if matches!(event, Seen::Datagrams { .. }) {
                echoes += 1;
                sink.send_to(&[9], address).unwrap();
            }
            if echoes < 500 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let out = stage.counters.get(Counter::PacketsOut);
        assert!(out > 100 * 44, "sending went on meanwhile: {out}");
    }
}

#[test]
fn at_full_speed_an_entry_into_the_kernel_carries_many_packets() {
    for ways in BOTH {
        let (from, to) = (loopback(), loopback());
        let mut puppet = Puppet {
            flood: Some(Send {
                channel: Channel(0),
                to: to.local(),
                bytes: pattern(44 * 1456),
                segment_size: 1456,
            }),
            ..Puppet::default()
        };
        let mut stage = stage(ways, vec![from, to], vec![], None);
        let counters = Arc::clone(&stage.counters);
        let count = |counter| counters.get(counter);
        stage.play(&mut puppet, |_| {
            if count(Counter::PacketsIn) < 2000 * 44 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let out = count(Counter::PacketsOut) / count(Counter::KernelEntriesOut);
        let into = count(Counter::PacketsIn) / count(Counter::KernelEntriesIn);
        assert!(out >= 40 && into >= 32, "{ways}: {out} out, {into} in");
    }
}

#[test]
fn stop_ends_a_run_whatever_the_machine_does() {
    for ways in BOTH {
        let (_sink, nowhere) = plain_sender();
        let puppet = Puppet {
            flood: Some(Send {
                channel: Channel(0),
                to: nowhere,
                bytes: vec![1; 1400],
                segment_size: 1400,
            }),
            ..Puppet::default()
        };
        aside(ways, loopback(), puppet, |_| {});
        aside(ways, loopback(), Puppet::default(), |_| {});
    }
}

#[test]
fn an_order_wakes_a_sleeping_driver_and_alarms_come_in_time() {
    for ways in BOTH {
        let mut stage = stage(ways, vec![loopback()], vec![], None);
        let nothing = Send {
            channel: Channel(0),
            to: loopback().local(),
            bytes: vec![],
            segment_size: 1,
        };
        let mailbox = stage.mailbox.clone();
        let mut puppet = Puppet::default();
        let alarm = stage.driver.now() + Duration::from_millis(30);
        puppet.alarm = Some(alarm);
        std::thread::scope(|scope| {
            let mut orders = 0;
            stage.play(&mut puppet, |event| match event {
                Seen::Alarm(at) => {
                    assert!(at >= alarm, "{at} is before {alarm}");
                    let (mailbox, nothing) = (mailbox.clone(), nothing.clone());
                    scope.spawn(move || {
                        for _ in 0..3 {
                            std::thread::sleep(Duration::from_millis(5));
                            mailbox.send(nothing.clone()).ok().unwrap();
                        }
                    });
                    ControlFlow::Continue(())
                }
                Seen::Ordered => {
                    orders += 1;
                    if orders == 3 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }
                Seen::Datagrams { .. } | Seen::Disk(_) => panic!("{event:?}"),
            });
        });
        assert_eq!(stage.counters.get(Counter::PacketsOut), 0);
    }
}

#[test]
fn a_driver_runs_again_after_its_run_has_ended() {
    for ways in BOTH {
        let socket = loopback();
        let address = socket.local();
        let (sender, _) = plain_sender();
        let mut stage = stage(ways, vec![socket], vec![], None);
        for round in 0..3_u8 {
            sender.send_to(&[round], address).unwrap();
            stage.play(&mut Puppet::default(), |event| {
                let Seen::Datagrams { bytes, .. } = event else {
                    panic!("{event:?}");
                };
                assert_eq!(bytes, [round]);
                ControlFlow::Break(())
            });
        }
    }
}

#[test]
#[should_panic(expected = "a machine names one of its sockets")]
fn a_machine_that_names_a_socket_that_it_has_not_is_stopped() {
    let mut stage = stage(Ways::PLAIN, vec![], vec![], None);
    let mut puppet = Puppet::default();
    puppet.sends.push_back(Send {
        channel: Channel(0),
        to: "127.0.0.1:9".parse().unwrap(),
        bytes: vec![1],
        segment_size: 1,
    });
    stage.play(&mut puppet, |_| ControlFlow::Break(()));
}

fn burst_of(segments: usize) {
    let mut stage = stage(Ways::PLAIN, vec![loopback()], vec![], None);
    let to = loopback();
    let mut puppet = Puppet {
        tick: Some(Duration::ZERO),
        alarm: Some(Time::ZERO),
        ..Puppet::default()
    };
    puppet.sends.push_back(Send {
        channel: Channel(0),
        to: to.local(),
        bytes: pattern(segments * 100),
        segment_size: 100,
    });
    stage.play(&mut puppet, |_| ControlFlow::Break(()));
    assert_eq!(stage.counters.get(Counter::PacketsOut), segments as u64);
    assert_eq!(stage.counters.get(Counter::KernelEntriesOut), 1);
}

#[test]
fn the_longest_burst_is_one_send() {
    burst_of(SEGMENTS_MAX);
}

#[test]
#[should_panic(expected = "a burst is within the kernel's limit")]
fn a_longer_burst_is_stopped() {
    burst_of(SEGMENTS_MAX + 1);
}

#[test]
fn a_route_that_copies_is_no_longer_asked_not_to() {
    let sink = loopback();
    let to = sink.local();
    let mut stage = stage(BOTH[0], vec![loopback(), sink], vec![], None);
    let send = Send {
        channel: Channel(0),
        to,
        bytes: pattern(44 * 1456),
        segment_size: 1456,
    };
    let (mut before, mut bytes) = (0, 0);
    while stage.driver.ways().send == Way::ZeroCopy {
        let mut puppet = Puppet::default();
        puppet.sends.push_back(send.clone());
        before += 1;
        bytes += send.bytes.len();
        stage.play(&mut puppet, |event| {
            let Seen::Datagrams { bytes: got, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(got, send.bytes);
            ControlFlow::Break(())
        });
    }
    assert_eq!(before, COPIES_MAX);
    assert_eq!(stage.counters.get(Counter::BytesOut), bytes as u64);
    assert_eq!(stage.counters.get(Counter::SendFallbacks), 0);
}

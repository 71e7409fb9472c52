//! What needs a network of its own: groups, a small MTU, no route. Each test runs its own process
//! again in a fresh network namespace.

use std::process::Command;

use super::disk::{moved, operation};
use super::*;
use crate::base::Blocks;
use crate::engine::net::Interface;
use crate::engine::net::interface::Family;
use crate::machine::{DiskError, DiskKind};

/// Tells whether this process is in a namespace made for `test`; if not, runs the test in one.
///
/// There the loopback is up, can multicast, and carries packets of at most `mtu` bytes.
fn in_namespace(test: &str, mtu: u32) -> bool {
    in_namespace_under(&[], test, mtu)
}

/// The same; there the process may lock at most 1 MiB of memory, with all others that may not more.
fn in_namespace_with_little_to_lock(test: &str, mtu: u32) -> bool {
    // Root may lock any amount of memory; most that run this may not.
    let root = ["prlimit", "--memlock=1048576:1048576"];
    let drop = ["setpriv", "--bounding-set", "-ipc_lock"];
    in_namespace_under(&[&root[..], &drop[..]].concat(), test, mtu)
}

pub(super) fn in_namespace_under(limits: &[&str], test: &str, mtu: u32) -> bool {
    const MARK: &str = "FLASHOVER_TEST_NAMESPACE";
    if std::env::var_os(MARK).is_some() {
        let mtu = mtu.to_string();
        ip(&["link", "set", "lo", "mtu", &mtu, "multicast", "on", "up"]);
        return true;
    }
    let room = if test.contains("::") {
        ""
    } else {
        "namespace::"
    };
    let name = format!("engine::drive::tests::{room}{test}");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]);
    if rustix::process::geteuid().is_root() {
        command.args(limits);
    } else {
        command.arg("--map-root-user");
    }
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads", "1"])
        .env(MARK, "1")
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "{test} fails in its namespace");
    false
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(status.expect("iproute2 is installed").success());
}

#[test]
fn a_group_reaches_its_members_and_nobody_else() {
    if !in_namespace("a_group_reaches_its_members_and_nobody_else", 65_536) {
        return;
    }
    // IPv6 multicast does not go over the loopback.
    ip(&["link", "add", "one", "type", "veth", "peer", "name", "two"]);
    ip(&["link", "set", "one", "up"]);
    ip(&["link", "set", "two", "up"]);
    ip(&["address", "add", "10.99.0.1/24", "dev", "one"]);
    ip(&["address", "add", "fd00:99::1/64", "dev", "one", "nodad"]);
    let link = Interface::pick_default(Family::V4).unwrap();
    assert_eq!((link.name.as_str(), link.mtu), ("one", 1500));
    for (groups, bind) in [
        (["239.1.2.3:4000", "239.1.2.4:4000"], "10.99.0.1:0"),
        (
            ["[ff15::1:2:3]:4000", "[ff15::1:2:4]:4000"],
            "[fd00:99::1]:0",
        ),
    ] {
        for ways in every_way() {
            let [ours, other]: [SocketAddr; 2] = groups.map(|group| group.parse().unwrap());
            let join = |group| Socket::multicast_receiver(group, None, &link).unwrap();
            let sender = Socket::multicast_sender(bind.parse().unwrap(), &link, 1).unwrap();
            let from = sender.local();
            let sockets = vec![sender, join(ours), join(ours), join(other)];
            let mut stage = stage(ways, sockets, vec![], None);
            let bytes = pattern(44 * 1408);
            let mut puppet = Puppet::default();
            for to in [ours, other] {
                puppet.sends.push_back(Send {
                    channel: Channel(0),
                    to,
                    bytes: bytes.clone(),
                    segment_size: 1408,
                });
            }
            let mut got = [0; 4];
            stage.play(&mut puppet, |event| {
                let Seen::Datagrams {
                    channel,
                    bytes: some,
                    segment_size,
                    from: seen,
                    ..
                } = event
                else {
                    panic!("{event:?}");
                };
                assert_eq!((segment_size, seen.port()), (1408, from.port()), "{ways}");
                got[usize::from(channel.0)] += some.len();
                if got.iter().sum::<usize>() == 3 * bytes.len() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            assert_eq!(got, [0, bytes.len(), bytes.len(), bytes.len()]);
        }
    }
}

#[test]
fn a_group_on_another_interface_is_another_group() {
    if !in_namespace("a_group_on_another_interface_is_another_group", 65_536) {
        return;
    }
    ip(&["link", "add", "one", "type", "veth", "peer", "name", "two"]);
    ip(&["link", "set", "one", "up"]);
    let group: SocketAddr = "239.1.2.3:4000".parse().unwrap();
    for ways in BOTH {
        let [lo, one] = ["lo", "one"].map(|name| Interface::find(name).unwrap());
        let join = |on| Socket::multicast_receiver(group, None, on).unwrap();
        let sender = Socket::multicast_sender("127.0.0.1:0".parse().unwrap(), &lo, 1).unwrap();
        let mut stage = stage(ways, vec![sender, join(&one), join(&lo)], vec![], None);
        let mut puppet = Puppet::default();
        for number in 0..10 {
            puppet.sends.push_back(Send {
                channel: Channel(0),
                to: group,
                bytes: vec![number],
                segment_size: 1,
            });
        }
        stage.play(&mut puppet, |event| {
            let Seen::Datagrams { channel, bytes, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(channel, Channel(2));
            if bytes == [9] {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        assert_eq!(stage.counters.get(Counter::PacketsIn), 10);
    }
}

#[test]
fn source_specific_membership_keeps_other_sources_out() {
    if !in_namespace("source_specific_membership_keeps_other_sources_out", 65_536) {
        return;
    }
    let lo = Interface::find("lo").unwrap();
    let group: SocketAddr = "232.9.9.9:4000".parse().unwrap();
    for ways in BOTH {
        let wanted = "127.0.0.7".parse().unwrap();
        let receiver = Socket::multicast_receiver(group, Some(wanted), &lo).unwrap();
        let sender =
            |address: &str| Socket::multicast_sender(address.parse().unwrap(), &lo, 1).unwrap();
        let sockets = vec![sender("127.0.0.8:0"), sender("127.0.0.7:0"), receiver];
        let mut stage = stage(ways, sockets, vec![], None);
        let mut puppet = Puppet::default();
        for channel in [0, 0, 1] {
            puppet.sends.push_back(Send {
                channel: Channel(channel),
                to: group,
                bytes: vec![channel],
                segment_size: 1,
            });
        }
        stage.play(&mut puppet, |event| {
            let Seen::Datagrams { bytes, from, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!((bytes, from.ip()), (vec![1], wanted));
            ControlFlow::Break(())
        });
    }
}

#[test]
fn a_burst_that_the_kernel_refuses_whole_goes_out_in_parts() {
    if !in_namespace(
        "a_burst_that_the_kernel_refuses_whole_goes_out_in_parts",
        1500,
    ) {
        return;
    }
    for ways in every_way() {
        let (from, to) = (loopback(), loopback());
        let address = to.local();
        let mut stage = stage(ways, vec![from, to], vec![], None);
        let mut puppet = Puppet::default();
        // Longer than the MTU: no coalescing, but single datagrams are cut into fragments.
        let send = Send {
            channel: Channel(0),
            to: address,
            bytes: pattern(5 * 2000 + 7),
            segment_size: 2000,
        };
        puppet.sends.extend([send.clone(), send]);
        let mut packets = 0;
        stage.play(&mut puppet, |event| {
            assert!(matches!(event, Seen::Datagrams { .. }), "{event:?}");
            packets += 1;
            if packets == 12 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(stage.counters.get(Counter::PacketsOut), 12);
        let fell_back = ways.send >= Way::Coalesced;
        if ways.backend == Backend::Plain {
            // One attempt was refused, and no second one was made.
            let bursts = if ways.send == Way::Single { 12 } else { 2 };
            let entries = stage.counters.get(Counter::KernelEntriesOut);
            assert_eq!(entries, bursts + u64::from(fell_back), "{ways}");
        }
        assert_eq!(stage.counters.get(Counter::PacketsUnsent), 0);
        let fallbacks = stage.counters.get(Counter::SendFallbacks);
        assert_eq!(fallbacks, u64::from(fell_back), "{ways}");
        assert_eq!(stage.driver.ways().send, ways.send.min(Way::Batched));
    }
}

#[test]
fn what_cannot_be_sent_is_counted_and_the_rest_goes_on() {
    if !in_namespace(
        "what_cannot_be_sent_is_counted_and_the_rest_goes_on",
        65_536,
    ) {
        return;
    }
    for ways in every_way() {
        let socket = Socket::unicast("0.0.0.0:0".parse().unwrap()).unwrap();
        let own = SocketAddr::from(([127, 0, 0, 1], socket.local().port()));
        let unreachable = "192.0.2.1:9".parse().unwrap();
        let mut stage = stage(ways, vec![socket], vec![], None);
        let mut puppet = Puppet::default();
        for to in [unreachable, own] {
            puppet.sends.push_back(Send {
                channel: Channel(0),
                to,
                bytes: vec![3; 3000],
                segment_size: 1000,
            });
        }
        stage.play(&mut puppet, |event| {
            let Seen::Datagrams { segment_size, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(segment_size, 1000, "the other burst is not to blame GSO");
            ControlFlow::Break(())
        });
        assert_eq!(stage.counters.get(Counter::PacketsUnsent), 3);
        assert_eq!(stage.counters.get(Counter::PacketsOut), 3);
    }
}

#[test]
fn a_device_that_fills_up_in_the_middle_of_a_write_is_full() {
    if !in_namespace(
        "a_device_that_fills_up_in_the_middle_of_a_write_is_full",
        65_536,
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(directory.path())
        .status();
    assert!(mounted.unwrap().success());
    for ways in BOTH {
        let file = File::create(directory.path().join("small")).unwrap();
        let mut arena = Arena::new(100 * 1024, 3).unwrap();
        let mut stage = stage(ways, vec![], vec![file], Some(&arena));
        // One at a time: the last begins where there is room and ends where there is none.
        let mut results = Vec::new();
        for tag in 0..3 {
            let block = arena.take().unwrap();
            let op = operation(tag, DiskKind::Write, tag * 102_400, block.len(), block);
            results.extend(moved(&mut stage, vec![op]).iter().map(|done| done.result));
        }
        assert_eq!(results, [Ok(()), Ok(()), Err(DiskError::Full)]);
    }
    let unmounted = Command::new("umount").arg(directory.path()).status();
    assert!(unmounted.unwrap().success());
}

/// A link of 800 Mbit/s, much slower than this machine.
fn slow_link() -> Interface {
    ip(&["link", "add", "one", "type", "veth", "peer", "name", "two"]);
    ip(&["link", "set", "two", "up"]);
    ip(&["link", "set", "one", "up"]);
    let slow = "qdisc add dev one root tbf rate 800mbit burst 128k limit 100m";
    let status = Command::new("tc").args(slow.split(' ')).status();
    assert!(status.expect("iproute2 is installed").success());
    Interface::find("one").unwrap()
}

#[test]
fn a_socket_that_is_full_holds_up_its_sends_and_nothing_else() {
    if !in_namespace(
        "a_socket_that_is_full_holds_up_its_sends_and_nothing_else",
        65_536,
    ) {
        return;
    }
    let link = slow_link();
    // How it receives makes no difference here.
    for ways in every_way().filter(|ways| ways.receive == Way::Coalesced) {
        let any = "0.0.0.0:0".parse().unwrap();
        let sockets = vec![Socket::multicast_sender(any, &link, 1).unwrap()];
        let mut stage = stage(ways, sockets, vec![], None);
        let send = Send {
            channel: Channel(0),
            to: "239.1.2.3:4000".parse().unwrap(),
            bytes: pattern(44 * 1456),
            segment_size: 1456,
        };
        let mut puppet = Puppet {
            sends: std::iter::repeat_n(send, 400).collect(),
            tick: Some(Duration::from_millis(1)),
            alarm: Some(Time::ZERO),
            ..Puppet::default()
        };
        let counters = Arc::clone(&stage.counters);
        let mut unfinished = 0;
        stage.play(&mut puppet, |event| {
            assert!(matches!(event, Seen::Alarm(_)), "{event:?}");
            if counters.get(Counter::PacketsOut) == 400 * 44 {
                return ControlFlow::Break(());
            }
            unfinished += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(counters.get(Counter::PacketsUnsent), 0);
        assert!(unfinished > 10, "the driver was held up: {unfinished}");
    }
}

#[test]
fn a_driver_that_cannot_send_sleeps_until_it_can() {
    if !in_namespace("a_driver_that_cannot_send_sleeps_until_it_can", 65_536) {
        return;
    }
    let link = slow_link();
    for ways in every_way().filter(|ways| ways.receive == Way::Coalesced) {
        let any = "0.0.0.0:0".parse().unwrap();
        let sockets = vec![Socket::multicast_sender(any, &link, 1).unwrap()];
        let mut stage = stage(ways, sockets, vec![], None);
        // It wants to send at once, always.
        let mut puppet = Puppet {
            flood: Some(Send {
                channel: Channel(0),
                to: "239.1.2.3:4000".parse().unwrap(),
                bytes: pattern(44 * 1456),
                segment_size: 1456,
            }),
            tick: Some(Duration::ZERO),
            alarm: Some(Time::ZERO),
            ..Puppet::default()
        };
        let counters = Arc::clone(&stage.counters);
        let mut alarms = 0;
        stage.play(&mut puppet, |event| {
            assert!(matches!(event, Seen::Alarm(_)), "{event:?}");
            alarms += 1;
            if counters.get(Counter::PacketsOut) < 400 * 44 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        // One by one, each datagram is a reason to wake up.
        let reasons = counters.get(Counter::KernelEntriesOut);
        assert!(
            alarms < 2 * reasons + 2000,
            "{ways}: {alarms} for {reasons}"
        );
    }
}

#[test]
fn without_the_right_to_lock_memory_blocks_work_unregistered() {
    if !in_namespace_with_little_to_lock(
        "without_the_right_to_lock_memory_blocks_work_unregistered",
        65_536,
    ) {
        return;
    }
    for (size, noted) in [(512 << 10, false), (4 << 20, true)] {
        let mut arena = Arena::new(size, 1).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut stage = stage(BOTH[0], vec![loopback()], vec![file], Some(&arena));
        // Staging slots come after blocks.
        assert_eq!(stage.driver.ways().send, Way::Coalesced);
        let is_noted = stage
            .driver
            .notes()
            .iter()
            .any(|note| note.contains("RLIMIT_MEMLOCK"));
        assert_eq!(is_noted, noted, "{:?}", stage.driver.notes());
        let write = operation(0, DiskKind::Write, 0, size, arena.take().unwrap());
        assert_eq!(moved(&mut stage, vec![write])[0].result, Ok(()));
    }
}

#[test]
fn nothing_is_copied_where_nobody_on_this_machine_listens() {
    if !in_namespace(
        "nothing_is_copied_where_nobody_on_this_machine_listens",
        65_536,
    ) {
        return;
    }
    ip(&["link", "add", "one", "type", "veth", "peer", "name", "two"]);
    ip(&["link", "set", "two", "up"]);
    ip(&["link", "set", "one", "up"]);
    let link = Interface::find("one").unwrap();
    let any = "0.0.0.0:0".parse().unwrap();
    let sockets = vec![Socket::multicast_sender(any, &link, 1).unwrap()];
    let arena = Arena::new(4096, 3).unwrap();
    let mut stage = stage(BOTH[0], sockets, vec![], Some(&arena));
    let send = Send {
        channel: Channel(0),
        to: "239.1.2.3:4000".parse().unwrap(),
        bytes: pattern(44 * 1456),
        segment_size: 1456,
    };
    let mut puppet = Puppet {
        sends: std::iter::repeat_n(send, 400).collect(),
        tick: Some(Duration::from_millis(1)),
        alarm: Some(Time::ZERO),
        ..Puppet::default()
    };
    let counters = Arc::clone(&stage.counters);
    stage.play(&mut puppet, |_| {
        if counters.get(Counter::PacketsOut) < 400 * 44 {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(())
    });
    assert_eq!(counters.get(Counter::PacketsUnsent), 0);
    assert_eq!(counters.get(Counter::SendFallbacks), 0);
    assert_eq!(stage.driver.ways().send, Way::ZeroCopy);
}

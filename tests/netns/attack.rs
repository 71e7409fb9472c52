//! An attacker in the cluster's own network, without its keys: forges, damages and replays.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fleet::{Fleet, GROUP, GROUP_PORT, REPORT_PORT};
use super::lab::{HEAD, Setup, in_lab, noise};

/// Datagrams kept for replay; many times what a receiver remembers in one go.
const KEPT_MAX: usize = 20_000;

#[test]
fn forged_damaged_and_replayed_datagrams_change_nothing() {
    in_lab(
        Setup {
            nodes: 3,
            loss_percent: 0.0,
        },
        |lab| {
            let fleet = Fleet::serve(lab, Some("50mbit"));
            let mut first = fleet.receive("node1");
            first.reaches(0.1);
            let second = fleet.receive("node2");
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let attack = scope.spawn(|| {
                    lab.within("node3", forge_reports);
                    // It takes the head's address, so that nothing but the keys can tell them apart.
                    lab.shell(
                        "lab_in node3 sh -c 'echo 8 >/proc/sys/net/ipv4/conf/eth0/arp_ignore'",
                    );
                    lab.shell("lab_in node3 ip address add 192.0.2.1/32 dev eth0");
                    lab.within("node3", || attack(&over))
                });
                first.succeeds();
                second.succeeds();
                over.store(true, Ordering::Relaxed);
                let (kept, sent) = attack.join().expect("the attacker cannot fail");
                assert!(
                    kept > 1000 && sent > 4000,
                    "no attack: {kept} kept, {sent} sent"
                );
            });
        },
    );
}

/// Listens to the group and sends what it heard again: as it was, damaged, cut short, and garbage.
/// Gives the numbers of datagrams kept and sent.
fn attack(over: &AtomicBool) -> (usize, usize) {
    let ears = UdpSocket::bind(SocketAddrV4::new(GROUP, GROUP_PORT)).expect("the port is free");
    ears.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)
        .expect("eth0 can multicast");
    ears.set_read_timeout(Some(Duration::from_millis(5)))
        .expect("a timeout is legal");
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut mouth = None;
    let mut buffer = [0; 2048];
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        if let Ok((size, from)) = ears.recv_from(&mut buffer) {
            mouth.get_or_insert_with(|| pose_as(from));
            if kept.len() < KEPT_MAX {
                kept.push(buffer[..size].to_vec());
            }
        }
        let (Some(mouth), Some(last)) = (&mouth, kept.last()) else {
            continue;
        };
        let old = &kept[(sent * 7919) % kept.len()];
        let mut damaged = last.clone();
        let place = (sent * 31) % damaged.len();
        damaged[place] ^= 1 << (sent % 8);
        let garbage = noise(sent as u64, (sent * 13) % 1472);
        for forged in [old, &damaged, &last[..place].to_vec(), &garbage] {
            mouth
                .send_to(forged, (GROUP, GROUP_PORT))
                .expect("the link is up");
            sent += 1;
        }
    }
    (kept.len(), sent)
}

/// A socket that nobody can tell from the head's own by its address.
fn pose_as(head: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(head).expect("the address was taken over");
    // Its own voice would make it hear nothing else.
    socket
        .set_multicast_loop_v4(false)
        .expect("loop can be set");
    socket
}

/// Sends garbage where the head takes the reports of its receivers.
fn forge_reports() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("any port");
    for number in 0..1000 {
        let garbage = noise(number, usize::try_from(number).unwrap_or(0) % 1472);
        for port in [REPORT_PORT, GROUP_PORT] {
            // A port that nobody listens on answers with an error to a later send.
            let _refused = socket.send_to(&garbage, (HEAD, port));
        }
    }
}

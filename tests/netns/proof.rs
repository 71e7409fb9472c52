//! The lab does what it says; without this, no other test in it proves anything.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::lab::{Lab, Setup, in_lab};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 7, 7);
const PORT: u16 = 7777;
const SENT: usize = 20_000;

#[test]
fn loss_is_as_asked_and_apart_per_node() {
    in_lab(
        Setup {
            nodes: 3,
            loss_percent: 5.0,
        },
        |lab| {
            lab.shell("lab_loss node2 0; lab_loss node3 20 udp");
            let received = cast(lab);
            assert!(
                (18_800..=19_200).contains(&received[0]),
                "5 % on node1: {received:?}"
            );
            assert_eq!(received[1], SENT, "none on node2");
            assert!(
                (15_600..=16_400).contains(&received[2]),
                "20 % on node3: {received:?}"
            );
        },
    );
}

#[test]
fn a_filtered_or_unplugged_node_gets_no_multicast_and_others_do() {
    in_lab(
        Setup {
            nodes: 3,
            loss_percent: 0.0,
        },
        |lab| {
            lab.shell("lab_filter_multicast node1; lab_link node2 down");
            assert_eq!(cast(lab), [0, 0, SENT]);
            lab.shell("lab_filter_multicast node1 off; lab_link node2 up");
            assert_eq!(lab.shell("lab_add_node"), "node4");
            assert_eq!(cast(lab), [SENT, SENT, SENT]);
        },
    );
}

/// Sends to the group from the head and counts what each of the first three nodes gets.
fn cast(lab: &Lab) -> Vec<usize> {
    let sockets = ["node1", "node2", "node3"].map(|node| {
        lab.within(node, || {
            let socket = UdpSocket::bind(SocketAddrV4::new(GROUP, PORT)).expect("the port is free");
            socket
                .join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)
                .expect("eth0 can multicast");
            set_socket_recv_buffer_size_force(&socket, 64 << 20).expect("root may");
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("a timeout is legal");
            socket
        })
    });
    std::thread::scope(|scope| {
        let counters = sockets
            .each_ref()
            .map(|socket| scope.spawn(|| count(socket)));
        lab.within("head", || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("any port");
            for number in 0..SENT {
                socket
                    .send_to(&[7; 64], (GROUP, PORT))
                    .expect("the link is up");
                if number % 32 == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        counters
            .map(|counter| counter.join().expect("counting cannot fail"))
            .to_vec()
    })
}

/// Counts datagrams until none came for a while.
fn count(socket: &UdpSocket) -> usize {
    let mut received = 0;
    let mut quiet = 0;
    while quiet < 5 {
        match socket.recv(&mut [0; 128]) {
            Ok(_) => (received, quiet) = (received + 1, 0),
            Err(_) => quiet += 1,
        }
    }
    received
}

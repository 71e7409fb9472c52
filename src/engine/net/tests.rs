use super::*;

fn loopback() -> Interface {
    Interface::find("lo").unwrap()
}

#[test]
fn buffers_and_coalescing_are_reported() {
    let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_ne!(socket.local().port(), 0);
    assert!(socket.receive_bytes() > 0);
    assert!(socket.gso() && socket.gro(), "this kernel has both");
}

#[test]
fn only_a_group_can_be_joined_and_a_source_must_be_of_its_family() {
    let lo = loopback();
    let unicast = "10.0.0.1:4000".parse().unwrap();
    assert!(Socket::multicast_receiver(unicast, None, &lo).is_err());
    let group = "232.1.2.3:0".parse().unwrap();
    let source = Some("::1".parse().unwrap());
    assert!(Socket::multicast_receiver(group, source, &lo).is_err());
    let source = Some("127.0.0.1".parse().unwrap());
    assert!(Socket::multicast_receiver(group, source, &lo).is_ok());
}

#[test]
fn two_sockets_share_a_group_and_not_an_address() {
    let lo = loopback();
    let group = "239.255.77.1:0".parse().unwrap();
    let first = Socket::multicast_receiver(group, None, &lo).unwrap();
    assert!(Socket::multicast_receiver(first.local(), None, &lo).is_ok());
    let plain = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(Socket::unicast(plain.local()).is_err());
}

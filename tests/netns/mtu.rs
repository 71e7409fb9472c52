//! Large and small frames: what is on the way decides, not what the interfaces say.

use super::fleet::{CONTENT_BYTES, Fleet, Receipt};
use super::lab::{Lab, Setup, in_lab};

const NODES: Setup = Setup {
    nodes: 3,
    loss_percent: 0.0,
};

/// Gives these nodes, and their ports of the switch, large frames.
fn large(lab: &Lab, nodes: &str) {
    lab.shell(&format!(
        "for node in {nodes}; do
             ip link set $node mtu 9000 && lab_in $node ip link set eth0 mtu 9000
         done"
    ));
}

/// Whether it came by multicast, but for what a change of sessions costs.
#[track_caller]
fn by_multicast(receipt: &Receipt) {
    assert!(
        receipt.bytes_by("multicast") >= CONTENT_BYTES * 9 / 10,
        "{}",
        receipt.said
    );
}

/// How large the datagrams were that came, on average.
fn bytes_per_datagram(receipt: &Receipt) -> u64 {
    receipt.counter("bytes_in_total") / receipt.counter("packets_in_total")
}

#[test]
fn row_17_large_frames_are_used_where_all_take_them() {
    in_lab(NODES, |lab| {
        large(lab, "head node1 node2");
        let fleet = Fleet::serve(lab, None);
        for receiver in ["node1", "node2"].map(|node| fleet.receive(node)) {
            let receipt = receiver.succeeds();
            by_multicast(&receipt);
            let per_datagram = bytes_per_datagram(&receipt);
            // Small ones bring 1408 at most; keys and control datagrams count too.
            assert!(per_datagram > 4000, "{per_datagram}: {}", receipt.said);
        }
    });
}

#[test]
fn row_17_large_and_small_frames_live_together() {
    in_lab(NODES, |lab| {
        large(lab, "head node1");
        // Who joins 0.1 s after the other misses some pieces, which a swarm would bring.
        let fleet = Fleet::serve_no_swarm(lab, Some("100mbit"));
        let nodes = ["node1", "node2"].map(|node| fleet.receive(node));
        for receiver in nodes {
            by_multicast(&receiver.succeeds());
        }
    });
}

#[test]
fn row_17_a_late_joiner_with_small_frames_stops_nobody() {
    in_lab(NODES, |lab| {
        large(lab, "head node1");
        let fleet = Fleet::serve_no_swarm(lab, Some("50mbit"));
        let mut first = fleet.receive("node1");
        first.reaches(0.5);
        let late = fleet.receive("node2");
        let receipt = first.succeeds();
        by_multicast(&receipt);
        let per_datagram = bytes_per_datagram(&receipt);
        assert!(
            (1600..7000).contains(&per_datagram),
            "first large, then small: {per_datagram}: {} {}",
            receipt.said,
            fleet.head_log()
        );
        assert!(!receipt.warns_of("multicast"), "{}", receipt.said);
        by_multicast(&late.succeeds());
        let told = fleet.head_log();
        assert!(
            told.contains("goes on in datagrams of 1408 bytes: node2"),
            "{told}"
        );
    });
}

/// Both ends take large frames and say so, the switch between them does not.
#[test]
fn row_17_what_is_on_the_way_decides() {
    in_lab(NODES, |lab| {
        large(lab, "head node1 node2");
        lab.shell("ip link set node2 mtu 1500");
        let fleet = Fleet::serve(lab, None);
        let receipt = fleet.receive("node2").succeeds();
        by_multicast(&receipt);
        assert!(!receipt.warns_of("mtu"), "{}", receipt.said);
    });
}

/// A tunnel takes less than everybody else does.
#[test]
fn row_17_frames_smaller_than_usual() {
    in_lab(NODES, |lab| {
        lab.shell("ip link set node2 mtu 1400 && lab_in node2 ip link set eth0 mtu 1400");
        let fleet = Fleet::serve_no_swarm(lab, Some("100mbit"));
        let nodes = ["node1", "node2"].map(|node| fleet.receive(node));
        for receiver in nodes {
            by_multicast(&receiver.succeeds());
        }
    });
}

/// Frames that came through when the node joined, and do not any more.
#[test]
fn row_17_a_path_that_shrinks_is_noticed() {
    in_lab(NODES, |lab| {
        large(lab, "head node1");
        // A narrow link: ranges are not done with everything before the head has stepped down.
        lab.shell("lab_rate node1 40");
        let fleet = Fleet::serve(lab, Some("25mbit"));
        let mut node = fleet.receive("node1");
        node.reaches(0.3);
        lab.shell("ip link set node1 mtu 1500");
        let receipt = node.succeeds();
        assert!(receipt.warns_of("mtu"), "{}", receipt.said);
        let told = fleet.head_log();
        assert!(
            told.contains("goes on in datagrams of 1408 bytes: node1"),
            "{told}"
        );
        assert!(
            receipt.said.contains("multicast brings pieces again"),
            "{}",
            receipt.said
        );
    });
}

/// Who asks for large symbols gets them; a node that they do not reach says why, and finishes.
#[test]
fn row_17_datagrams_too_large_for_a_node_are_named() {
    in_lab(NODES, |lab| {
        large(lab, "head node1");
        let fleet = Fleet::serve_with(lab, &["--symbol-size", "8192", "--rate-max", "50mbit"]);
        let [large, small] = ["node1", "node2"].map(|node| fleet.receive(node));
        by_multicast(&large.succeeds());
        let receipt = small.succeeds();
        assert_eq!(receipt.bytes_by("multicast"), 0, "{}", receipt.said);
        assert!(receipt.warns_of("mtu"), "{}", receipt.said);
    });
}

//! A switch that follows IGMP: what it forgets, nodes remind it of; and the head can ask for them.

use std::time::Duration;

use super::fleet::{CONTENT_BYTES, Fleet};
use super::lab::{Setup, in_lab, until};

const NODES: Setup = Setup {
    nodes: 2,
    loss_percent: 0.0,
};

#[test]
fn row_15_lost_membership_is_renewed_and_named_on_both_sides() {
    in_lab(NODES, |lab| {
        // The switch forgets who is in a group after 3 s, and hardly ever asks; a second after its
        // first question it begins to send only where somebody is.
        lab.shell(
            "ip link set switch type bridge mcast_snooping 1 mcast_querier 1 \
             mcast_membership_interval 300 mcast_query_interval 12500 \
             mcast_startup_query_count 1 mcast_startup_query_interval 12500 \
             mcast_query_response_interval 100; \
             lab_rate node1 40",
        );
        let fleet = Fleet::serve_no_swarm(lab, Some("15mbit"));
        let receipt = fleet.receive("node1").succeeds();
        let said = &receipt.said;
        assert!(said.contains("the group is joined again"), "{said}");
        let mended = "until the group was joined again (IGMP membership lost";
        assert!(receipt.warns_of(&mended.to_lowercase()), "{said}");
        assert!(receipt.causes().contains(mended), "{said}");
        assert!(fleet.head_log().contains(mended), "{}", fleet.head_log());
        assert!(receipt.bytes_by("multicast") >= CONTENT_BYTES / 2, "{said}");
    });
}

#[test]
fn row_15_our_querier_is_one_to_the_switch() {
    in_lab(NODES, |lab| {
        lab.shell("ip link set switch type bridge mcast_snooping 1 mcast_querier 0");
        let asks = || {
            lab.shell("bridge -d mdb show dev switch")
                .contains("router ports on switch: head")
        };
        assert!(!asks());
        let fleet = Fleet::serve_with(lab, &["--igmp-querier"]);
        until(Duration::from_secs(10), || asks().then_some(())).expect("the switch sees a querier");
        let receipt = fleet.receive("node1").succeeds();
        assert!(
            receipt.bytes_by("multicast") >= CONTENT_BYTES * 9 / 10,
            "{}",
            receipt.said
        );
    });
}

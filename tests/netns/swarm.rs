//! Nodes that exchange pieces: beside the multicast, and in its place.

use std::time::Duration;

use super::fleet::{CONTENT_BYTES, Fleet, Receiver};
use super::lab::{HEAD, Lab, Setup, in_lab};

/// Gives a transfer by multicast a middle to interfere in.
const SLOW: Option<&str> = Some("50mbit");

/// Starts `receive` on a node that is told where the head is.
fn receive_from_head<'fleet>(lab: &Lab, fleet: &'fleet Fleet<'_>, node: &str) -> Receiver<'fleet> {
    let target = lab.scratch().join(node);
    fleet.receive_with(node, &target, &["--head", &HEAD.to_string()])
}

#[test]
fn a_swarm_alone_images_all_nodes() {
    in_lab(Setup::nodes(4), |lab| {
        let fleet = Fleet::serve_with(lab, &["--via", "swarm"]);
        let nodes: Vec<String> = (1..=4).map(|number| format!("node{number}")).collect();
        let receivers = nodes.iter().map(|node| fleet.receive(node));
        let receivers: Vec<_> = receivers.collect();
        for receiver in receivers {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("swarm") >= CONTENT_BYTES,
                "{}",
                receipt.said
            );
        }
    });
}

#[test]
fn byte_ranges_alone_image_all_nodes() {
    in_lab(Setup::nodes(2), |lab| {
        let fleet = Fleet::serve_with(lab, &["--via", "http"]);
        let receivers = ["node1", "node2"].map(|node| fleet.receive(node));
        for receiver in receivers {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("http") >= CONTENT_BYTES,
                "{}",
                receipt.said
            );
        }
    });
}

#[test]
fn who_gets_no_multicast_gets_everything_from_the_swarm() {
    in_lab(Setup::nodes(3), |lab| {
        lab.shell("lab_filter_multicast node2");
        let fleet = Fleet::serve(lab, SLOW);
        let mut others = ["node1", "node3"].map(|node| fleet.receive(node));
        for other in &mut others {
            other.reaches(0.05);
        }
        let filtered = receive_from_head(lab, &fleet, "node2");
        let receipt = filtered.succeeds();
        assert_eq!(receipt.bytes_by("multicast"), 0, "{}", receipt.said);
        assert!(
            receipt.bytes_by("swarm") >= CONTENT_BYTES * 9 / 10,
            "{}",
            receipt.said
        );
        // Which it says depends on whether it took the 2 s after which silence has a cause.
        let said = &receipt.said;
        assert!(
            said.contains("no multicast reaches") || said.contains("nothing was heard of"),
            "{said}"
        );
        for receiver in others {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("multicast") >= CONTENT_BYTES / 2,
                "{}",
                receipt.said
            );
        }
    });
}

#[test]
fn where_little_passes_as_multicast_the_swarm_brings_nearly_all() {
    in_lab(Setup::nodes(2), |lab| {
        lab.shell("lab_rate head 40");
        for node in ["node1", "node2"] {
            lab.shell(&format!("lab_rate {node} 40 && lab_storm_control {node} 2"));
        }
        let fleet = Fleet::serve(lab, None);
        let receivers = ["node1", "node2"].map(|node| receive_from_head(lab, &fleet, node));
        for receiver in receivers {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("swarm") >= CONTENT_BYTES / 2,
                "{}",
                receipt.said
            );
        }
    });
}

#[test]
fn who_is_done_ends_as_soon_as_nobody_lacks_anything() {
    in_lab(Setup::nodes(3), |lab| {
        let fleet = Fleet::serve(lab, None);
        let nodes = ["node1", "node2", "node3"];
        // Longer than any test waits.
        let receivers = nodes.map(|node| {
            let target = lab.scratch().join(node);
            fleet.receive_with(node, &target, &["--seed-time", "10m"])
        });
        for receiver in receivers {
            receiver.succeeds();
        }
    });
}

#[test]
fn who_comes_late_takes_what_has_passed_from_the_swarm() {
    in_lab(Setup::nodes(3), |lab| {
        let fleet = Fleet::serve(lab, SLOW);
        let mut first = fleet.receive("node1");
        first.reaches(0.5);
        let late = fleet.receive("node2").succeeds();
        let by_swarm = late.bytes_by("swarm");
        assert!(by_swarm >= CONTENT_BYTES / 4, "{}", late.said);
        assert!(
            late.bytes_by("multicast") >= CONTENT_BYTES / 4,
            "{}",
            late.said
        );
        let first = first.succeeds();
        assert!(first.bytes_by("swarm") == 0, "{}", first.said);
    });
}

#[test]
fn the_head_dies_after_one_node_is_complete_and_all_finish() {
    in_lab(Setup::nodes(4), |lab| {
        let fleet = Fleet::serve_with(lab, &["--via", "swarm"]);
        let mut others = ["node2", "node3", "node4"].map(|node| {
            lab.shell(&format!("lab_rate {node} 20"));
            fleet.receive(node)
        });
        for other in &mut others {
            other.reaches(0.05);
        }
        // It has all while they have little.
        let target = lab.scratch().join("node1");
        let mut first = fleet.receive_with("node1", &target, &["--seed-time", "60s"]);
        first.proves();
        fleet.kill_head();
        for other in others {
            let receipt = other.succeeds();
            assert!(
                receipt.bytes_by("swarm") >= CONTENT_BYTES * 9 / 10,
                "{}",
                receipt.said
            );
        }
        first.succeeds();
    });
}

#[test]
fn a_swarm_goes_on_when_the_head_was_started_anew() {
    in_lab(Setup::nodes(2), |lab| {
        lab.shell("lab_rate head 50");
        let fleet = Fleet::serve_with(lab, &["--via", "swarm"]);
        let mut receivers = ["node1", "node2"].map(|node| fleet.receive(node));
        for receiver in &mut receivers {
            receiver.reaches(0.3);
        }
        fleet.kill_head();
        std::thread::sleep(Duration::from_secs(1));
        fleet.start_head();
        for receiver in receivers {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("swarm") >= CONTENT_BYTES * 9 / 10,
                "{}",
                receipt.said
            );
        }
    });
}
